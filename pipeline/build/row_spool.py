"""Keeps the rows of a shard during a commit, in a file if there are too many for memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.shards import Row
from manifests.spool import Spool
from manifests.streams.specs import StreamSpec

IN_MEMORY = 256 << 20
"""Bytes of frames up to which rows stay in memory, which saves writing and reading them once."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A row whose frames are in the file: stream -> (spec, first byte, bytes, count)."""

    clip_id: str
    duration: float
    audio_digest: str
    metadata: dict[str, Any]
    frames: dict[str, tuple[StreamSpec, int, int, int]]


class RowSpool:
    """Accepts rows in any order and returns them in another, one at a time.

    The first rows stay in memory, up to `IN_MEMORY` bytes; the frames of the others are written to
    the local disk (`TMPDIR`). A context manager.
    """

    def __init__(self) -> None:
        self._file = Spool(1)  # On the disk from the first byte on.
        self._end = 0
        self._free = IN_MEMORY
        self._places: dict[str, Row | _Place] = {}

    def __enter__(self) -> RowSpool:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._places

    def add(self, rows: Iterable[Row]) -> None:
        """Adds rows."""
        for row in rows:
            size = sum(len(encoded.blob) for encoded in row.frames.values())
            if size <= self._free:
                self._free -= size
                self._places[row.clip_id] = row
            else:
                self._free = 0
                self._places[row.clip_id] = self._written(row)

    def rows(self, clip_ids: Iterable[str]) -> Iterator[Row]:
        """Yields the rows of the clips that have one, in the order of the ids."""
        for clip_id in clip_ids:
            place = self._places.get(clip_id)
            if place is not None:
                yield self._read(place) if isinstance(place, _Place) else place

    def _written(self, row: Row) -> _Place:
        self._file.seek(self._end)
        frames = {}
        for name, encoded in row.frames.items():
            size = len(encoded.blob)
            self._file.write(encoded.blob)
            frames[name] = (encoded.spec, self._end, size, encoded.num_frames)
            self._end += size
        return _Place(row.clip_id, row.duration, row.audio_digest, row.metadata, frames)

    def _read(self, place: _Place) -> Row:
        frames = {}
        for name, (spec, first, size, count) in place.frames.items():
            self._file.seek(first)
            frames[name] = EncodedFrames(spec, self._file.read(size), count)
        return Row(
            clip_id=place.clip_id,
            duration=place.duration,
            audio_digest=place.audio_digest,
            metadata=place.metadata,
            frames=frames,
        )
