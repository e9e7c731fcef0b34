"""What the heads of a trained student predict, beside the cached targets: on held-out clips.

Both are drawn on the student's own time grid, with the same rows and scales, so that what differs
to the eye differs in the numbers. Features are in standard deviations; logits are turned into the
probabilities that they stand for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.audio import Waveform
from manifests.cache.stream_sums import Statistics
from manifests.clips import Clip
from manifests.page import sound
from manifests.page.tracks import Track, of_stream
from manifests.streams.kinds import KINDS
from manifests.streams.specs import StreamSpec
from student.batch import Grid, collate, stream_targets
from student.data.dataset import ExampleDataset
from student.data.examples import Example
from student.data.held_out import read_held_out
from student.distill.kinds import stream_metric, to_target_units
from student.distill.streams import Stream
from student.inference.generate import TrainedStudent

# Legend: N student frames (K * R), D columns.

MAX_ANSWER = 64
"""Tokens of an answer that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryClip:
    """One held-out clip with one of its questions; its tracks come in pairs."""

    clip_id: str
    uri: str
    seconds: float
    full_seconds: float
    question: str
    expected: str
    answered: str
    scores: dict[str, float | None]
    """Stream -> its metric on this clip alone."""
    absent: list[str]
    """Streams that the cache does not have for the clip."""
    audio: str
    no_audio: str
    waveform: dict[str, Any] | None
    spectrogram: dict[str, Any] | None
    tracks: list[Track]


def choose(run: Path, count: int) -> list[tuple[Example, list[Clip]]]:
    """Held-out examples to show: of different clips, spread evenly over the run's."""
    firsts: dict[str, tuple[Example, list[Clip]]] = {}
    for example, clips in read_held_out(run):
        firsts.setdefault(clips[-1].clip_id, (example, clips))
    found = list(firsts.values())
    if len(found) <= count:
        return found
    return [found[int((at + 0.5) * len(found) / count)] for at in range(count)]


def exhibits(
    run: Path, streams: Mapping[str, Stream], chosen: Sequence[tuple[Example, list[Clip]]]
) -> Iterator[GalleryClip]:
    """Lets the run's student hear the clips, read its block, and answer.

    Clips whose audio is not here are left out: the student would have nothing to hear.

    Args:
        run: Folder of a run with heads.
        streams: Of the run's recipe, open.
        chosen: Of `choose`.

    Raises:
        UserError: the run has no finished stage, or does not fit the cache.
    """
    trained = TrainedStudent(run, heads=True)
    for example, clips in chosen:
        waves = [sound.decode(clip) for clip in clips]
        if all(isinstance(wave, Waveform) for wave in waves):
            yield _exhibit(trained, streams, example, clips, waves[-1])


def _exhibit(
    trained: TrainedStudent,
    streams: Mapping[str, Stream],
    example: Example,
    clips: list[Clip],
    wave: Any,
) -> GalleryClip:
    frames = _frames(trained, streams, example, clips)
    heard = [trained.load_audio(clip) for clip in clips]
    (answer,) = trained.reply([example.messages], [heard], max_tokens=MAX_ANSWER)
    scores: dict[str, float | None] = {}
    tracks = []
    for name, (output_ND, target_ND) in frames.items():
        stream = streams[name]
        score = stream_metric(stream, output_ND, target_ND)
        scores[name] = score if math.isfinite(score) else None
        tracks += _pairs(stream, output_ND, target_ND, wave.seconds, scores[name])
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
    streams: Mapping[str, Stream],
    example: Example,
    clips: list[Clip],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Stream -> (the head's output_ND, target_ND), where the cache covers the clip."""
    student, prompter = trained.student, trained.prompter
    grid = Grid.from_recipe(trained.recipe, streams)
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
        name: (_array(result.frames[name].flatten(0, 1)), _array(target_BND.flatten(0, 1)))
        for name, (target_BND, covered_B) in stream_targets(batch, result).items()
        if covered_B[0]
    }


def _pairs(
    stream: Stream,
    output_ND: np.ndarray,
    target_ND: np.ndarray,
    seconds: float,
    score: float | None,
) -> list[Track]:
    """Tracks of the cached frames, each followed by the same of the predicted ones."""
    hop_s = seconds / len(target_ND)
    stored = stream.reader.spec if stream.reader else None
    spec = StreamSpec(
        name=stream.name.partition(".")[2] or stream.name,
        kind=stream.kind,
        dim=target_ND.shape[1],
        start_s=hop_s / 2,
        hop_s=hop_s,
        window_s=hop_s,
        codec="fp16",
        names=stored.names if stored else (),
        pitch_bins=stream.pitch_bins,
    )
    unit = Statistics(np.zeros(spec.dim, np.float32), np.ones(spec.dim, np.float32), len(target_ND))
    cached = of_stream(stream.name, spec, target_ND, unit)
    shown_ND = to_target_units(stream.kind, output_ND)
    predicted = of_stream(stream.name, spec, shown_ND, unit, like_TD=target_ND)
    note = f"{KINDS[stream.kind].metric_name} {score:.2f} on this clip" if score is not None else ""
    tracks = []
    for theirs, ours in zip(cached, predicted, strict=True):
        for track, who, said in ((theirs, "cached", {}), (ours, "predicted", {"note": note})):
            data = track.data | {"who": who} | said
            more = track.more and len(cached) > 1
            title = f"{track.title}, {who}"
            tracks.append(dataclasses.replace(track, title=title, more=more, data=data))
    return tracks


def _array(frames_ND: Tensor) -> np.ndarray:
    return frames_ND.float().cpu().numpy()


def _question(example: Example) -> str:
    parts = example.messages[-1]["content"]
    return " ".join(part["text"] for part in parts if part["type"] == "text")
