"""Opens the streams that a run is trained on, with the data that the losses need."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader, StreamReader
from manifests.cache.stream_sums import Statistics
from manifests.cache.teacher_reader import TeacherReader
from manifests.errors import UserError
from manifests.streams.kinds import KINDS
from manifests.streams.pitch_bins import CREPE_BINS, PitchBins
from manifests.streams.specs import TeacherSpec
from student.config import StreamConfig
from student.distill.alignment import standardised, student_frames

logger = logging.getLogger(__name__)

# Legend: N student frames (K * R), D columns.

RECONSTRUCTION = "reconstruction"
"""The stream that needs no cache: the backbone's own audio features after the projector."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One supervised stream."""

    name: str
    """`TEACHER.STREAM`, or `reconstruction`."""
    kind: str
    """A name of `manifests.streams.kinds`."""
    dim: int
    """Width D; 0 stands for the backbone's own width."""
    config: StreamConfig
    reader: StreamReader | None = None
    """None for `reconstruction`."""
    statistics: Statistics | None = None
    """Mean and deviation over the cache, only for standardised kinds."""
    pitch_bins: PitchBins = CREPE_BINS
    """Frequencies of the bins of a pitch stream."""

    @property
    def threshold(self) -> float:
        """Minimum target probability of a present class."""
        return self.config.threshold

    @property
    def key(self) -> str:
        """The name as a key of torch modules, which may not contain dots."""
        return self.name.replace(".", "/")

    def covers(self, clip_id: str) -> bool:
        """Whether the clip has targets."""
        return self.reader is None or clip_id in self.reader

    def frames(self, clip_id: str, num_frames: int, span_s: float | None = None) -> np.ndarray:
        """Returns frames_ND, float32, of a clip with targets; features are standardised.

        Args:
            clip_id: The clip.
            num_frames: N, or the largest number of frames with `span_s`.
            span_s: Fixed length of a frame, in seconds; None divides the clip into N equal parts.
        """
        assert self.reader is not None
        duration, encoded = self.reader.row(clip_id)
        frames_ND = student_frames(encoded, duration, num_frames, span_s)
        return standardised(frames_ND, self.statistics) if self.statistics else frames_ND


def open_streams(
    caches: Sequence[str],
    configs: Mapping[str, StreamConfig] | None,
    *,
    local_copies: str | None = None,
    versions: Mapping[str, str] | None = None,
) -> dict[str, Stream]:
    """Opens streams, each from the first cache that has its teacher.

    Args:
        caches: Folders or addresses.
        configs: Stream -> its settings; every trainable stream if None.
        local_copies: Folder in which shards of remote caches are kept after the first read.
        versions: Name of a teacher -> required version `NAME@FINGERPRINT`.

    Raises:
        UserError: no cache has the stream, or it cannot be a training target.
    """
    readers = [CacheReader(cache, local_copies=_place(local_copies, cache)) for cache in caches]
    if configs is None:
        configs = {name: StreamConfig() for reader in readers for name in _learnable(reader)}
    return {name: _open(name, config, readers, versions or {}) for name, config in configs.items()}


def check_streams(layouts: Sequence[Layout], names: Iterable[str]) -> None:
    """Checks in the specs of caches, without reading shards, that some version has each stream.

    Raises:
        UserError: no cache has the stream.
    """
    specs = [spec for layout in layouts for spec in layout.teachers().values()]
    for name in names:
        own, _, stream = name.partition(".")
        versions = [spec for spec in specs if spec.name == own.partition("@")[0]]
        if name == RECONSTRUCTION or any(
            stream == each.name for spec in versions for each in spec.streams
        ):
            continue
        if versions:
            versions[-1].stream(stream)
        raise _no_such_stream(name, {f"{spec.name}.{key}" for spec in specs for key in _keys(spec)})


def _keys(spec: TeacherSpec) -> list[str]:
    return [stream.name for stream in spec.streams if KINDS[stream.kind].is_trainable]


def _no_such_stream(name: str, known: Iterable[str]) -> UserError:
    return UserError(
        f"no cache has the stream {name!r}; there are {', '.join(sorted(known)) or 'none'}"
    )


def _place(local_copies: str | None, cache: str) -> Path | None:
    """The folder of one cache's copies, separate for caches with the same teachers."""
    if local_copies is None:
        return None
    return Path(local_copies) / hashlib.sha256(cache.encode()).hexdigest()[:12]


def distinct_teachers(streams: Mapping[str, Stream]) -> list[TeacherReader]:
    """The teachers of the streams, each once."""
    teachers = {
        stream.reader.teacher.spec.key: stream.reader.teacher
        for stream in streams.values()
        if stream.reader is not None
    }
    return list(teachers.values())


def find_unreadable(streams: Mapping[str, Stream]) -> np.ndarray:
    """Keys of the clips whose audio a teacher could not decode and that none has targets for.

    A file that was repaired after one teacher failed on it is readable if another one processed it.
    """
    teachers = distinct_teachers(streams)
    if not teachers:
        return np.empty(0, np.uint64)
    key_N = np.unique(np.concatenate([teacher.unreadable_keys() for teacher in teachers]))
    covered_N = np.zeros(len(key_N), bool)
    for teacher in teachers:
        covered_N |= teacher.covers(key_N)
    return key_N[~covered_N]


def copy_ahead(streams: Mapping[str, Stream]) -> None:
    """Creates the local copies in the background, in storage order, while training starts.

    A batch that needs a missing copy earlier fetches it itself.
    """
    teachers = distinct_teachers(streams)

    def fetch() -> None:
        try:
            for teacher in teachers:
                teacher.make_copies()
        except OSError as error:
            logger.warning("copying shards ahead has stopped: %s", error)

    threading.Thread(target=fetch, name="copy-ahead", daemon=True).start()


def _learnable(reader: CacheReader) -> list[str]:
    return [f"{name}.{key}" for name, spec in reader.teachers.items() for key in _keys(spec)]


def _open(
    name: str,
    config: StreamConfig,
    readers: Sequence[CacheReader],
    versions: Mapping[str, str],
) -> Stream:
    if name == RECONSTRUCTION:
        return Stream(name=name, kind="features", dim=0, config=config)
    teacher = name.partition(".")[0].partition("@")[0]
    for cache in readers:
        if teacher not in cache.teachers:
            continue
        own, _, stream = name.partition(".")
        reader = cache.stream(f"{versions.get(own, own)}.{stream}")
        spec = reader.spec
        if not KINDS[spec.kind].is_trainable:
            raise UserError(
                f"stream {name} is a {spec.kind}, which is for inspection only; remove it from "
                "`streams`"
            )
        statistics = reader.statistics() if KINDS[spec.kind].is_standardised else None
        return Stream(name=name, kind=spec.kind, dim=spec.dim, config=config, reader=reader,
                      statistics=statistics, pitch_bins=spec.pitch_bins)  # fmt: skip
    if not readers:
        raise UserError(f"the targets of {name!r} are in a teacher cache: pass --cache CACHE")
    raise _no_such_stream(name, {key for cache in readers for key in _learnable(cache)})
