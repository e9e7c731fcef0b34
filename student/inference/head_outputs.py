"""Computes the predictions of the heads for one recording, in the units of the cached targets.

The inputs of the heads are only the states at the distilled positions: those of the thinking block
or, in the arm `distill`, of the audio tokens. Their predictions of pitch, events or emotion show
the information at these positions while the model answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from manifests.streams.kinds import VOICED
from manifests.streams.pitch_bins import CREPE_BINS, PitchBins
from student.batch import IGNORE, Grid
from student.data.examples import ask
from student.distill.alignment import span_edges
from student.distill.kinds import to_target_units
from student.distill.streams import RECONSTRUCTION
from student.inference.generate import TrainedStudent
from student.runs.sources import StreamSource

# Legend: N student frames (K * R) over equal spans of the clip, D columns.


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOutput:
    """The prediction of one head for one recording."""

    stream: str
    kind: str
    names: tuple[str, ...]
    """Names of the columns, or empty."""
    unit: str
    values_ND: np.ndarray
    """In target units (`StreamKind.target_unit`): probabilities, or standard deviations from the
    cache's mean."""
    pitch_bins: PitchBins = CREPE_BINS
    """The grid of a pitch stream."""

    @property
    def pitch_track(self) -> np.ndarray:
        """hertz_N of a pitch stream; NaN for unvoiced frames."""
        hertz_N = self.pitch_bins.hertz(self.pitch_bins.peak(self.values_ND[:, :-1]))
        return np.where(self.values_ND[:, -1] >= VOICED, hertz_N, np.nan)


def head_outputs(
    student: TrainedStudent,
    wave: np.ndarray,
    question: str,
    sources: Mapping[str, StreamSource],
) -> list[HeadOutput]:
    """The predictions of every loaded head for one prompt, except that of `reconstruction`.

    Args:
        student: A student with its heads.
        wave: The recording at the backbone's sample rate.
        question: The question of the prompt, to which a block after it can attend.
        sources: The run's streams, which have column names and pitch grids.
    """
    inputs = student.inputs([ask(question)], [[wave]])
    nothing_BS = torch.full_like(inputs["input_ids"], IGNORE)
    with torch.no_grad():
        frames = student.student(inputs, nothing_BS, with_answer=False).frames
    seconds = len(wave) / student.student.backbone.sample_rate
    frame_s = Grid.from_recipe(student.recipe, {}).frame_s
    return [
        HeadOutput(
            stream=name,
            kind=sources[name].kind,
            names=tuple(sources[name].names),
            unit=sources[name].unit,
            values_ND=to_target_units(
                sources[name].kind,
                _within(frames_BND.flatten(0, 1).float().cpu().numpy(), seconds, frame_s),
            ),
            pitch_bins=sources[name].pitch_bins,
        )
        for name, frames_BND in frames.items()
        if name != RECONSTRUCTION
    ]


def _within(frames_ND: np.ndarray, seconds: float, frame_s: float | None) -> np.ndarray:
    """The frames that begin within the recording: all of them unless frames have a fixed length."""
    return frames_ND[: len(span_edges(seconds, len(frames_ND), frame_s)) - 1]
