"""Spools the rows of a shard to a file during a commit, so that memory use stays bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.shards import SPOOL_BYTES, Row
from manifests.spool import Spool
from manifests.streams.specs import StreamSpec


@dataclass(frozen=True, slots=True)
class _Place:
    """A row whose frames are in the file: stream -> (spec, first byte, bytes, count)."""

    duration: float
    audio_digest: str
    metadata: dict[str, Any]
    frames: dict[str, tuple[StreamSpec, int, int, int]]


class RowSpool:
    """Accepts rows in any order and returns them in another, one at a time.

    Up to `SPOOL_BYTES` stay in memory, more is written to the local disk (`TMPDIR`). A context
    manager.
    """

    def __init__(self) -> None:
        self._file = Spool(SPOOL_BYTES)
        self._places: dict[str, _Place] = {}

    def __enter__(self) -> RowSpool:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._places

    def add(self, rows: Iterable[Row]) -> None:
        """Adds rows."""
        end = self._file.seek(0, 2)
        for row in rows:
            frames = {}
            for name, encoded in row.frames.items():
                size = len(encoded.blob)
                self._file.write(encoded.blob)
                frames[name] = (encoded.spec, end, size, encoded.num_frames)
                end += size
            self._places[row.clip_id] = _Place(row.duration, row.audio_digest, row.metadata, frames)

    def rows(self, clip_ids: Iterable[str]) -> Iterator[Row]:
        """Yields the rows of the clips that have one, in the order of the ids."""
        for clip_id in clip_ids:
            place = self._places.get(clip_id)
            if place is None:
                continue
            frames = {}
            for name, (spec, first, size, count) in place.frames.items():
                self._file.seek(first)
                frames[name] = EncodedFrames(spec, self._file.read(size), count)
            yield Row(
                clip_id=clip_id,
                duration=place.duration,
                audio_digest=place.audio_digest,
                metadata=place.metadata,
                frames=frames,
            )
