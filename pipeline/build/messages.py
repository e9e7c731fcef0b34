"""Messages between the steps of a build.

A block is a few clips of one shard that are decoded together and pass each teacher together. Blocks
are cut from a shard by its content alone, so a resumed build forms the same batches, hence the same
bytes, as an undisturbed one.
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
    """The audio of a block, at every sample rate that a teacher asks for."""

    clip_ids: list[str]
    durations: list[float]
    """Seconds."""
    digests: list[str]
    waves: dict[int, list[np.ndarray]]
    """Sample rate in Hz -> a float32 mono waveform per clip."""
    warnings: list[list[str]] = field(default_factory=list)
    """Faults of each clip's audio that did not keep it from being decoded (`AudioWarning.kind`)."""
    texts: list[str | None] = field(default_factory=list)
    """Text of each clip, where the corpus knows it."""

    def only(self, positions: slice) -> Decoded:
        """Some of the clips."""
        return Decoded(
            self.clip_ids[positions],
            self.durations[positions],
            self.digests[positions],
            {rate: waves[positions] for rate, waves in self.waves.items()},
            self.warnings[positions],
            self.texts[positions],
        )

    def singly(self) -> list[Decoded]:
        """Every clip alone."""
        return [self.only(slice(row, row + 1)) for row in range(len(self.clip_ids))]


@dataclass(frozen=True, slots=True)
class DecodeSummary:
    """The driver's summary of a decoded block."""

    num_clips: int
    """Clips that were decoded, failures left out."""
    seconds: float
    num_bytes: int
    failures: list[Failure]
    warnings: Mapping[str, int]
    """Kind of `manifests.audio` warning -> clips that have it."""
    num_left: int = 0
    """The block's last clips, which make a block of their own: the ones before them were longer
    than was known, and fill this one."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """A block's rows by one teacher, with the sums over them."""

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
    """Audio seconds that went through the teacher."""
    elapsed: float
    """Worker seconds taken, loading left out."""
    num_bytes: int
    """Size of the encoded frames."""
    failures: list[Failure]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """A shard of one teacher that is to be written, without its rows."""

    spec: TeacherSpec
    folder: Folder
    """The folder of the teacher's shards."""
    shard: int
    ids: Sequence[str]
    """Ids of the slice's clips, in order."""
    done: Sequence[str]
    """Ids of the clips that were to be done. If they are not all of them, the shard keeps what it
    has of the others."""
    failures: Sequence[Failure]
    """Failures of decoding."""
    extract_seconds: float
    """Worker seconds of the teacher."""


UNKNOWN_SECONDS = 30.0
"""Assumed length of a clip of unknown length when blocks are cut."""


def shared_file(clip: Clip) -> str:
    """A clip's file, or its row group of Parquet: one read serves all clips that share it."""
    return clip.uri.rpartition("&row=")[0] or clip.uri


def cut(clips: Sequence[Clip], *, max_clips: int, max_seconds: float) -> list[list[Clip]]:
    """Cuts a shard into blocks of clips of like length: a batch then wastes little on padding.

    Longest first, so that the end of a build is made of small pieces that fill its gaps. Clips of
    unknown length keep their order, at the front. Clips of one file stay together, in the file's
    order: in blocks of their own where they fill more than one, so that a file is decoded once.
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
    """Blocks of whole groups, in order."""
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
