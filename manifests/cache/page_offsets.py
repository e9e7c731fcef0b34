"""Locates blobs in a Parquet file, so that one clip is read without its row group.

An uncompressed column chunk written by this package is one page: a header, then for each row a
length of 4 bytes and the blob. The lengths follow from the numbers of frames, so the positions can
be computed. Every stored length must match the expected one; otherwise `locate` returns None, and
the caller reads the row group through pyarrow. From a memory-mapped file, a clip is then read
without any copy.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.shards import ROWS_PER_GROUP
from manifests.streams.codecs import CODECS
from manifests.streams.specs import StreamSpec, TeacherSpec

PREFIX = 4
"""Bytes of a length (Parquet's PLAIN encoding of BYTE_ARRAY)."""


@dataclass(frozen=True, slots=True)
class BlobsInPlace:
    """The positions of one stream's blobs in one row group."""

    spec: StreamSpec
    ids: list[str]
    durations: list[float]
    counts: list[int]
    places: list[tuple[int, int]]
    """First byte in the file, and the byte after the last."""

    def row(self, row: int, content: memoryview) -> tuple[float, EncodedFrames]:
        """Reads (duration, frames) of a row of the group from the content of the file."""
        start, end = self.places[row]
        return self.durations[row], EncodedFrames(self.spec, content[start:end], self.counts[row])


def locate(
    file: pq.ParquetFile, content: memoryview, group: int, spec: StreamSpec, *, check: bool
) -> BlobsInPlace | None:
    """Locates a stream's blobs in a row group; returns None if they are compressed or not in one
    page.

    Args:
        file: The file, open.
        content: All bytes of the file, memory-mapped.
        group: Number of the row group.
        spec: The stream.
        check: Read the page once through pyarrow, which verifies its checksum if `file` does.
    """
    columns = ["clip_id", "duration", f"{spec.name}.num_frames"]
    frames = f"{spec.name}.frames"
    metadata = file.metadata.row_group(group)
    column = file.schema.names.index(frames)
    chunk = metadata.column(column)
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
        return None
    read = [*columns, frames] if check else columns
    table: pa.Table = file.read_row_group(group, columns=read, use_threads=False)
    ids, durations, counts = (table.column(name).to_pylist() for name in columns)
    places = _places(spec, counts, chunk.data_page_offset + chunk.total_compressed_size, content)
    return BlobsInPlace(spec, ids, durations, counts, places) if places else None


def _places(
    spec: StreamSpec, counts: Sequence[int], end: int, content: memoryview
) -> list[tuple[int, int]]:
    """Positions of the blobs, counted backwards from `end`; empty if a length is unexpected."""
    places: list[tuple[int, int]] = []
    for count in reversed(counts):
        start = end - CODECS[spec.codec].blob_bytes(spec, count)
        prefix = content[max(start - PREFIX, 0) : start]
        if int.from_bytes(prefix, "little") != end - start:
            return []
        places.append((start, end))
        end = start - PREFIX
    return places[::-1]


class TeacherPages:
    """The pages of a teacher: positions of blobs, and which pages were verified.

    The flags are in memory that forked processes share, so each page is verified once for all
    workers of a data loader (or twice, if two workers reach it at the same moment).

    Args:
        rows: Number of rows of each shard.
        spec: The teacher.
        check: Whether to verify pages at all.
    """

    def __init__(self, rows: Sequence[int], spec: TeacherSpec, *, check: bool) -> None:
        groups = -(-np.array(rows, np.int64) // ROWS_PER_GROUP)
        self._first = np.concatenate([[0], np.cumsum(groups)])
        self._streams = {stream.name: place for place, stream in enumerate(spec.streams)}
        self._check = check
        self._flags = mmap.mmap(-1, max(1, int(self._first[-1]) * len(spec.streams)))

    def locate(
        self,
        page: tuple[int, int, str],
        file: pq.ParquetFile,
        content: memoryview,
        spec: StreamSpec,
    ) -> BlobsInPlace | None:
        """Like the function `locate`; `page` is (shard, row group, stream)."""
        shard, group, stream = page
        flag = (int(self._first[shard]) + group) * len(self._streams) + self._streams[stream]
        check = self._check and not self._flags[flag]
        located = locate(file, content, group, spec, check=check)
        self._flags[flag] = 1
        return located
