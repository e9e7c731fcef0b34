"""What the heads read at the thinking positions, in units that mean something.

The heads see nothing but the block, so what they say of pitch, events or emotion is what the block
holds while the model answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manifests.streams.specs import Kind
from student.batch import IGNORE
from student.data.examples import ask
from student.distill.alignment import VOICED
from student.distill.metrics import peak_cents
from student.distill.streams import RECONSTRUCTION
from student.inference.generate import TrainedStudent
from student.runs.sources import StreamSource

# Legend: N student frames (K * R) over equal spans of the clip, D columns.

FIRST_BIN_HZ = 10 * 2 ** (1997.3794 / 1200)
"""Of CREPE's 360 bins (Kim et al. 2018)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one head reads of one recording."""

    stream: str
    kind: Kind
    names: tuple[str, ...]
    """Of the columns, or empty."""
    unit: str
    values_ND: np.ndarray
    """Probabilities (multilabel, distribution); standard deviations from the cache's mean
    (features); for pitch one column, Hz, NaN where nothing is voiced."""


def read_block(
    student: TrainedStudent,
    wave: np.ndarray,
    question: str,
    sources: Mapping[str, StreamSource],
) -> list[Reading]:
    """Lets every loaded head read the block of one prompt; the audio tower's own is left out.

    Args:
        student: With heads.
        wave: At the backbone's sample rate.
        question: The block may come after it, and see it.
        sources: Of the run: what the columns are called.
    """
    inputs = student.inputs([ask(question)], [[wave]])
    nothing_BS = torch.full_like(inputs["input_ids"], IGNORE)
    with torch.no_grad():
        frames = student.student(inputs, nothing_BS, with_answer=False).frames
    return [
        Reading(
            stream=name,
            kind=sources[name].kind,
            names=tuple(sources[name].names),
            unit=sources[name].unit,
            values_ND=to_target_units(sources[name].kind, frames_BND[0].float().cpu()),
        )
        for name, frames_BND in frames.items()
        if name != RECONSTRUCTION
    ]


def to_target_units(kind: Kind, output_ND: Tensor) -> np.ndarray:
    """A head's output as `Reading.values_ND`."""
    if kind == "multilabel":
        return output_ND.sigmoid().numpy()
    if kind == "distribution":
        return output_ND.softmax(-1).numpy()
    if kind == "pitch":
        salience_ND = output_ND[:, :-1].softmax(-1).numpy()
        hertz_N = FIRST_BIN_HZ * 2 ** (peak_cents(salience_ND) / 1200)
        voiced_N = output_ND[:, -1].sigmoid().numpy() >= VOICED
        return np.where(voiced_N, hertz_N, np.nan)[:, None]
    return output_ND.numpy()
