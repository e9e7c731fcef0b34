"""Reads targets from a teacher cache: by clip, or in storage order at the speed of the disk.

Joins are by clip id and fail closed: a row that is not the clip it should be raises, and a clip
without targets is a KeyError, never its neighbour. Frames come as stored (`EncodedFrames`), a view
into the bytes that were read, so that a caller who needs few of them decodes few.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.cache import shards
from manifests.cache.clip_index import ClipIndex
from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.layout import Layout
from manifests.cache.page_offsets import BlobsInPlace, locate
from manifests.cache.shards import Failure, Marker
from manifests.cache.stream_sums import Statistics, Sums
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.streams.specs import StreamSpec, TeacherSpec

GROUPS_IN_PLACE = 1 << 16
"""Row groups of which a teacher's reader remembers where the blobs lie (a few kB each)."""
SHARDS_AHEAD = 3
"""Shards of a remote cache that a scan with local copies fetches at once, the next one first."""
OPEN_FILES = 128
"""Parquet files kept open per teacher (footers parsed, memory-mapped where local)."""


@dataclass(frozen=True, slots=True)
class _Shard:
    """One committed shard, and where its files are."""

    folder: Folder
    corpus: str
    marker: Marker


@dataclass(frozen=True, slots=True)
class _File:
    """A shard's data file, open."""

    parquet: pq.ParquetFile
    content: memoryview | None
    """All of it, memory-mapped, if it is on a local disk."""


class CacheReader:
    """One cache, open for reading.

    Args:
        cache: Folder or address of the cache.
        corpora: Names of the corpora to read; all of them if None.
        local_copies: Where whole shards of a remote cache are kept once read; in storage order
            they are fetched ahead. Ignored for a cache on a local disk.
        check_pages: Verify Parquet's page checksums at every read.

    Raises:
        UserError: there is no such cache, or no such corpus in it.
    """

    def __init__(
        self,
        cache: str | Path,
        *,
        corpora: Sequence[str] | None = None,
        local_copies: str | Path | None = None,
        check_pages: bool = True,
    ) -> None:
        self.layout = Layout.open(cache)
        known = self.layout.corpora()
        for name in corpora or ():
            if name not in known:
                raise UserError(f"{cache} has no corpus {name!r}; it has {', '.join(known)}")
        self.corpora = list(corpora) if corpora is not None else known
        self.teachers = self.layout.newest()
        self._local_copies = local_copies
        self._check_pages = check_pages
        self._readers: dict[str, TeacherReader] = {}

    def teacher(self, name: str) -> TeacherReader:
        """One teacher's targets, by `NAME` (newest version) or `NAME@FINGERPRINT`."""
        spec = self.layout.teacher(name)
        if spec.key not in self._readers:
            self._readers[spec.key] = TeacherReader(
                self.layout, spec, self.corpora, self._local_copies, self._check_pages
            )
        return self._readers[spec.key]

    def stream(self, name: str) -> StreamReader:
        """One stream, by `TEACHER.STREAM`, e.g. `asr.encoder`."""
        teacher, dot, stream = name.partition(".")
        if not dot:
            raise UserError(f"a stream is named TEACHER.STREAM, e.g. asr.encoder; found {name!r}")
        return StreamReader(self.teacher(teacher), stream)

    def metadata(self, teacher: str, clip_id: str) -> dict[str, Any]:
        """What a teacher says of a clip in words (transcript, notes).

        Raises:
            KeyError: the teacher has no row for the clip.
        """
        return self.teacher(teacher).metadata(clip_id)


class TeacherReader:
    """One version of one teacher, over all its committed shards."""

    def __init__(
        self,
        layout: Layout,
        spec: TeacherSpec,
        corpora: Sequence[str],
        local_copies: str | Path | None,
        check_pages: bool,
    ) -> None:
        self.spec = spec
        self._check_pages = check_pages
        self._copies = Folder(local_copies).child(spec.key) if local_copies else None
        self._corpora = {name: layout.corpus(name) for name in corpora}
        self.shards = [
            _Shard(folder, corpus, marker)
            for corpus in corpora
            for folder in [layout.shards(spec, corpus)]
            for marker in shards.read_markers(folder)
        ]
        self._index = ClipIndex(self._row_ids(shard) for shard in self.shards)
        self._columns: list[str] = ["clip_id", "duration"]
        self._file = functools.lru_cache(OPEN_FILES)(self._open)
        self._group = functools.lru_cache(4)(self._read_group)
        self._in_place = functools.lru_cache(GROUPS_IN_PLACE)(self._locate_blobs)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, clip_id: str) -> bool:
        return self._index.find(clip_id) is not None

    @property
    def ids(self) -> list[str]:
        """Ids of the clips that have targets, in storage order."""
        return [clip_id for shard in self.shards for clip_id in self._row_ids(shard)]

    def failures(self) -> Iterator[Failure]:
        """The clips without targets, with the reason."""
        for shard in self.shards:
            yield from shards.read_failures(shard.folder, shard.marker)

    def statistics(self, stream: str) -> Statistics:
        """Mean and deviation of a stream over all its stored frames."""
        total = Sums.zero(self.spec.stream(stream).dim)
        for shard in self.shards:
            total.add(Sums.from_json(shard.marker.sums[stream]))
        return total.statistics()

    def row(self, clip_id: str, stream: str) -> tuple[float, EncodedFrames]:
        """(duration in seconds, frames) of a clip.

        Raises:
            KeyError: there is no row for the clip.
        """
        ordinal, group, at = self._find(clip_id)
        in_place, content = self._in_place(ordinal, group, stream), self._file(ordinal).content
        if in_place is None or content is None:
            batch = self._batch(clip_id, ordinal, group, at, self._want(stream))
            frames = _encoded(batch, self.spec.stream(stream), at)
            return batch.column("duration")[at].as_py(), frames
        if in_place.ids[at] != clip_id:
            raise self._misplaced(ordinal, in_place.ids[at], clip_id)
        return in_place.row(at, content)

    def metadata(self, clip_id: str) -> dict[str, Any]:
        """What the teacher says of a clip in words.

        Raises:
            KeyError: there is no row for the clip.
        """
        ordinal, group, at = self._find(clip_id)
        batch = self._batch(clip_id, ordinal, group, at, ("clip_id", "metadata"))
        return json.loads(batch.column("metadata")[at].as_py())

    def scan(self, streams: Sequence[str]) -> Iterator[tuple[str, dict[str, EncodedFrames]]]:
        """(clip id, stream -> frames) of every row, in storage order."""
        specs = [self.spec.stream(name) for name in streams]
        columns = ["clip_id", *(name for spec in specs for name in _stream_columns(spec.name))]
        for ordinal, file in enumerate(self._files_in_order()):
            expected, row = self._row_ids(self.shards[ordinal]), 0
            for batch in file.iter_batches(64, columns=columns, use_threads=False):
                ids = batch.column("clip_id").to_pylist()
                for clip_id, sought in zip(ids, expected[row : row + len(ids)], strict=True):
                    if clip_id != sought:
                        raise self._misplaced(ordinal, clip_id, sought)
                row += len(ids)
                views = {spec.name: _views(batch, spec) for spec in specs}
                for at, clip_id in enumerate(ids):
                    yield clip_id, {name: view[at] for name, view in views.items()}

    def make_copies(self) -> None:
        """Fetches the shards that have no local copy yet, in storage order; for another thread."""
        for ordinal in range(len(self.shards) if self._copies is not None else 0):
            self._fetch(ordinal)

    def _want(self, stream: str) -> tuple[str, ...]:
        """Columns of every stream asked for so far: one read then serves them all."""
        if f"{stream}.frames" not in self._columns:
            self.spec.stream(stream)
            self._columns += _stream_columns(stream)
        return tuple(self._columns)

    def _find(self, clip_id: str) -> tuple[int, int, int]:
        """(shard ordinal, row group, row within it) of a clip."""
        found = self._index.find(clip_id)
        if found is None:
            raise KeyError(f"teacher {self.spec.key} has no targets for the clip {clip_id}")
        ordinal, row = found
        return ordinal, *divmod(row, shards.ROWS_PER_GROUP)

    def _batch(
        self, clip_id: str, ordinal: int, group: int, at: int, columns: tuple[str, ...]
    ) -> pa.RecordBatch:
        """A row group, once its row `at` proved to be the clip's."""
        batch = self._group(ordinal, group, columns)
        stored = batch.column("clip_id")[at].as_py()
        if stored != clip_id:
            raise self._misplaced(ordinal, stored, clip_id)
        return batch

    def _misplaced(self, ordinal: int, found: str, sought: str) -> UserError:
        return UserError(
            f"{self.shards[ordinal].marker.data} of {self.spec.key} has {found!r} where {sought!r} "
            "should be; run: coat-cache verify --deep --repair, then build again"
        )

    def _read_group(self, ordinal: int, group: int, columns: tuple[str, ...]) -> pa.RecordBatch:
        table = self._file(ordinal).parquet.read_row_group(
            group, columns=columns, use_threads=False
        )
        return table.combine_chunks().to_batches()[0]

    def _locate_blobs(self, ordinal: int, group: int, stream: str) -> BlobsInPlace | None:
        file, spec = self._file(ordinal), self.spec.stream(stream)
        if file.content is None:
            return None
        return locate(file.parquet, file.content, group, spec, check=self._check_pages)

    def _files_in_order(self) -> Iterator[pq.ParquetFile]:
        """Every shard's file; of a remote cache, those to come are fetched in the background."""
        with ThreadPoolExecutor(SHARDS_AHEAD) as background:
            coming = deque[Future[Folder]]()
            try:
                for ordinal in range(len(self.shards)):
                    for ahead in range(ordinal + len(coming), ordinal + SHARDS_AHEAD):
                        if self._copies is not None and ahead < len(self.shards):
                            coming.append(background.submit(self._fetch, ahead))
                    if coming:
                        coming.popleft().result()
                    yield self._file(ordinal).parquet
            finally:
                background.shutdown(cancel_futures=True)

    def _fetch(self, ordinal: int) -> Folder:
        """Where to read a shard's data from: its local copy, made if need be, if there are any."""
        shard = self.shards[ordinal]
        if self._copies is None or shard.folder.is_local:
            return shard.folder
        copy, name = self._copies.child(shard.corpus), f"data/{shard.marker.data}"
        if copy.size(name) != shard.marker.data_bytes:
            copy.write_atomic(name, shard.folder.read_bytes(name))
        return copy

    def _open(self, ordinal: int) -> _File:
        marker = self.shards[ordinal].marker
        folder = self._fetch(ordinal)
        source = folder.open(f"data/{marker.data}", memory_map=True)
        file = pq.ParquetFile(source, page_checksum_verification=self._check_pages)
        if file.metadata.num_rows != marker.rows:
            raise UserError(
                f"{marker.data} of {self.spec.key} has {file.metadata.num_rows} rows, its marker "
                f"says {marker.rows}; run: coat-cache verify --deep --repair, then build again"
            )
        return _File(file, memoryview(source.read_buffer()) if folder.is_local else None)

    def _row_ids(self, shard: _Shard) -> list[str]:
        ids = self._corpora[shard.corpus].shard_ids(shard.marker.shard)
        if shards.digest_ids(ids) != shard.marker.clips_digest:
            raise UserError(
                f"shard {shard.marker.shard} of {self.spec.key} was made from other clips than "
                f"corpus {shard.corpus!r} has; run: coat-cache verify --repair, then build again"
            )
        failed = {failure.clip_id for failure in shards.read_failures(shard.folder, shard.marker)}
        return [clip_id for clip_id in ids if clip_id not in failed]


class StreamReader:
    """One stream of one teacher: a mapping from clip id to frames."""

    def __init__(self, teacher: TeacherReader, stream: str) -> None:
        self.teacher = teacher
        self.spec = teacher.spec.stream(stream)

    @property
    def ids(self) -> list[str]:
        """Ids of the clips that have targets, in storage order."""
        return self.teacher.ids

    def __len__(self) -> int:
        return len(self.teacher)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self.teacher

    def __getitem__(self, clip_id: str) -> EncodedFrames:
        return self.teacher.row(clip_id, self.spec.name)[1]

    def duration(self, clip_id: str) -> float:
        """Seconds of audio that the frames are about."""
        return self.teacher.row(clip_id, self.spec.name)[0]

    def statistics(self) -> Statistics:
        """Mean and deviation over all stored frames."""
        return self.teacher.statistics(self.spec.name)

    def __iter__(self) -> Iterator[tuple[str, EncodedFrames]]:
        """(clip id, frames) of every row, in storage order."""
        for clip_id, frames in self.teacher.scan([self.spec.name]):
            yield clip_id, frames[self.spec.name]


def _stream_columns(stream: str) -> list[str]:
    return [f"{stream}.frames", f"{stream}.num_frames"]


def _views(batch: pa.RecordBatch, spec: StreamSpec) -> list[EncodedFrames]:
    """Frames of every row of a batch, as views into its buffer: nothing is copied."""
    column = batch.column(f"{spec.name}.frames")
    _, offsets, values = column.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(column) + 1, offset=4 * column.offset).tolist()
    view = memoryview(values) if values is not None else memoryview(b"")
    counts = batch.column(f"{spec.name}.num_frames").to_pylist()
    return [
        EncodedFrames(spec, view[bounds[at] : bounds[at + 1]], count)
        for at, count in enumerate(counts)
    ]


def _encoded(batch: pa.RecordBatch, spec: StreamSpec, at: int) -> EncodedFrames:
    return _views(batch.slice(at, 1), spec)[0]
