"""Computes the predictions of a trained student's heads and the cached targets for held-out
clips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.audio import Waveform
from manifests.clips import Clip
from manifests.page import sound
from manifests.page.tracks import Track
from manifests.streams.kinds import KINDS
from student.batch import Grid, collate, stream_targets
from student.data.dataset import ExampleDataset
from student.data.examples import Example
from student.data.held_out import read_held_out
from student.distill.kinds import stream_metric
from student.distill.streams import Stream
from student.inference.generate import TrainedStudent
from student.inference.head_tracks import paired_tracks

# Legend: N student frames (K * R), D columns.

MAX_ANSWER = 64
"""Maximum number of tokens of a shown answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryClip:
    """A held-out clip with one of its questions and pairs of tracks."""

    clip_id: str
    uri: str
    seconds: float
    full_seconds: float
    question: str
    expected: str
    answered: str
    scores: dict[str, float | None]
    """Stream -> its metric on this clip."""
    absent: list[str]
    """Streams that the cache does not have for the clip."""
    audio: str
    no_audio: str
    waveform: dict[str, Any] | None
    spectrogram: dict[str, Any] | None
    tracks: list[Track]


def choose(run: Path, count: int) -> list[tuple[Example, list[Clip]]]:
    """Selects held-out examples of different clips, spread evenly over the run's examples."""
    by_clip: dict[str, tuple[Example, list[Clip]]] = {}
    for example, clips in read_held_out(run):
        by_clip.setdefault(clips[-1].clip_id, (example, clips))
    examples = list(by_clip.values())
    if len(examples) <= count:
        return examples
    return [examples[int((place + 0.5) * len(examples) / count)] for place in range(count)]


def predict_clips(
    run: Path, streams: Mapping[str, Stream], chosen: Sequence[tuple[Example, list[Clip]]]
) -> Iterator[GalleryClip]:
    """Runs the student on each clip: the predictions of its heads, and its answer.

    Clips whose audio cannot be read are skipped.

    Args:
        run: Folder of a run with heads.
        streams: The streams of the run's recipe, open.
        chosen: Examples from `choose`.

    Raises:
        UserError: the run has no finished stage, or does not fit the cache.
    """
    trained = TrainedStudent(run, heads=True)
    for example, clips in chosen:
        waves = [sound.decode(clip) for clip in clips]
        if all(isinstance(wave, Waveform) for wave in waves):
            yield _gallery_clip(trained, streams, example, clips, waves[-1])


def _gallery_clip(
    trained: TrainedStudent,
    streams: Mapping[str, Stream],
    example: Example,
    clips: list[Clip],
    wave: Any,
) -> GalleryClip:
    grid = Grid.from_recipe(trained.recipe, streams)
    token_s = 1 / trained.student.backbone.tokens_per_second
    frames = _frames(trained, grid, example, clips)
    waves = [trained.load_audio(clip) for clip in clips]
    (answer,) = trained.reply([example.messages], [waves], max_tokens=MAX_ANSWER)
    scores: dict[str, float | None] = {}
    tracks = []
    for name, (output_ND, target_ND) in frames.items():
        stream = streams[name]
        metric = stream_metric(stream, output_ND, target_ND)
        scores[name] = metric if math.isfinite(metric) else None
        is_known = math.isfinite(metric)
        note = f"{KINDS[stream.kind].metric_name} {metric:.2f} on this clip" if is_known else ""
        extent_s = grid.extent(len(target_ND), wave.seconds, token_s)
        tracks += paired_tracks(stream, output_ND, target_ND, seconds=extent_s, note=note)
    return GalleryClip(
        clip_id=clips[-1].clip_id,
        uri=clips[-1].uri,
        seconds=round(wave.seconds, 4),
        full_seconds=round(wave.seconds, 4),
        question=_question(example),
        expected=example.answer,
        answered=answer.strip(),
        scores=scores,
        absent=[name for name in streams if name not in frames],
        tracks=tracks,
        **sound.parts(wave, wave.seconds),
    )


@torch.no_grad()
def _frames(
    trained: TrainedStudent,
    grid: Grid,
    example: Example,
    clips: list[Clip],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Stream -> (the head's output_ND, target_ND), for streams with targets of the clip."""
    student, prompter = trained.student, trained.prompter
    dataset = ExampleDataset(
        [example],
        {clip.clip_id: clip for clip in clips},
        prompter,
        grid,
        audio_token_id=prompter.backbone.audio_token_id(student.base),
    )
    batch = collate([dataset[0]], grid=grid, pad_id=trained.processor.tokenizer.pad_token_id)
    batch = batch.to(trained.device)
    result = student(batch.inputs, batch.labels_BS, batch.audio_weights_BNS, with_answer=False)
    return {
        name: (_array(result.frames[name][covered_BN]), _array(target_BND[covered_BN]))
        for name, (target_BND, covered_BN) in stream_targets(batch, result).items()
        if covered_BN.any()
    }


def _array(frames_ND: Tensor) -> np.ndarray:
    return frames_ND.float().cpu().numpy()


def _question(example: Example) -> str:
    parts = example.messages[-1]["content"]
    return " ".join(part["text"] for part in parts if part["type"] == "text")
