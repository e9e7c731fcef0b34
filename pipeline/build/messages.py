"""Messages between the steps of a build.

A block is a few clips of one shard that are decoded and processed together. Blocks depend only on
the content of a shard, so a resumed build forms the same batches and writes the same bytes as an
uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from manifests.cache.shards import Failure, Row
from manifests.cache.stream_sums import Sums
from manifests.clips import Clip
from manifests.storage import Folder
from manifests.streams.specs import TeacherSpec


@dataclass(frozen=True, slots=True)
class Decoded:
    """The audio of a block, at every sample rate that a teacher needs."""

    clip_ids: list[str]
    durations: list[float]
    """Seconds."""
    digests: list[str]
    waves: dict[int, list[np.ndarray]]
    """Sample rate in Hz -> a float32 mono waveform per clip."""
    warnings: list[list[str]] = field(default_factory=list)
    """Faults of each clip's audio that did not prevent decoding (`AudioWarning.kind`)."""
    texts: list[str | None] = field(default_factory=list)
    """Text of each clip, if the corpus has it."""

    def only(self, positions: slice) -> Decoded:
        """Selects some of the clips."""
        return Decoded(
            self.clip_ids[positions],
            self.durations[positions],
            self.digests[positions],
            {rate: waves[positions] for rate, waves in self.waves.items()},
            self.warnings[positions],
            self.texts[positions],
        )

    def split(self) -> list[Decoded]:
        """Yields each clip as a block of its own."""
        return [self.only(slice(row, row + 1)) for row in range(len(self.clip_ids))]


@dataclass(frozen=True, slots=True)
class DecodeSummary:
    """The driver's summary of a decoded block."""

    num_clips: int
    """Number of decoded clips, without failures."""
    seconds: float
    num_bytes: int
    failures: list[Failure]
    warnings: Mapping[str, int]
    """Kind of `manifests.audio` warning -> clips that have it."""
    num_left: int = 0
    """Number of last clips that become a new block, because the clips before them were longer than
    expected and fill this one."""
    elapsed: float = 0.0
    """Worker seconds."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """A block's rows by one teacher, with their sums."""

    rows: list[Row]
    failures: list[Failure]
    sums: dict[str, Sums]
    versions: dict[str, str] = field(default_factory=dict)
    """Library -> version in the process of the teacher."""


@dataclass(frozen=True, slots=True)
class ExtractSummary:
    """The driver's summary of an extracted block."""

    num_clips: int
    seconds: float
    """Audio seconds processed by the teacher."""
    elapsed: float
    """Worker seconds, without loading."""
    num_bytes: int
    """Size of the encoded frames."""
    failures: list[Failure]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """A request to write a shard of one teacher, without its rows."""

    spec: TeacherSpec
    folder: Folder
    """The folder of the teacher's shards."""
    shard: int
    ids: Sequence[str]
    """Ids of the shard's clips, in order."""
    done: Sequence[str]
    """Ids of the processed clips. If these are not all clips of the shard, it keeps its rows of the
    others."""
    failures: Sequence[Failure]
    """Failures of decoding."""
    extract_seconds: float
    """Worker seconds of the teacher."""


UNKNOWN_SECONDS = 30.0
"""Assumed length of clips of unknown length when forming blocks."""


def shared_file(clip: Clip) -> str:
    """A clip's file or Parquet row group, which is read once for all its clips."""
    return clip.uri.rpartition("&row=")[0] or clip.uri


def cut(clips: Sequence[Clip], *, max_clips: int, max_seconds: float) -> list[list[Clip]]:
    """Groups a shard's clips into blocks of similar length, so that batches need little padding.

    The longest clips come first, so that the small blocks at the end keep all workers busy. Clips
    of unknown length keep their order, at the front. Clips of one file stay together, in the file's
    order. If they fill more than one block, these contain no other clips, so that the file is
    decoded once.
    """
    files: dict[str, list[Clip]] = {}
    for clip in clips:
        files.setdefault(shared_file(clip), []).append(clip)
    blocks: list[list[Clip]] = []
    together = []
    for group in files.values():
        if len(group) > 1 and "&row=" not in group[0].uri:
            group.sort(key=lambda clip: clip.offset)
        if len(group) > max_clips or (_seconds(group) > max_seconds and len(group) > 1):
            blocks += _pack([[clip] for clip in group], max_clips, max_seconds)
        else:
            together.append(group)
    together.sort(key=lambda group: -max(clip.likely_duration or math.inf for clip in group))
    return blocks + _pack(together, max_clips, max_seconds)


def _pack(groups: Sequence[list[Clip]], max_clips: int, max_seconds: float) -> list[list[Clip]]:
    """Packs whole groups into blocks, in order."""
    blocks: list[list[Clip]] = []
    seconds = 0.0
    for group in groups:
        length = _seconds(group)
        is_full = not blocks or len(blocks[-1]) + len(group) > max_clips
        if is_full or seconds + length > max_seconds:
            blocks.append([])
            seconds = 0.0
        blocks[-1] += group
        seconds += length
    return blocks


def _seconds(group: Sequence[Clip]) -> float:
    return sum(clip.likely_duration or UNKNOWN_SECONDS for clip in group)
