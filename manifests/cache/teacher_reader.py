"""Reads one teacher's targets, by clip or in storage order. `CacheReader` creates these readers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.cache import audio_digests, marker_index, shards
from manifests.cache.clip_index import (
    ABSENT,
    ROW_BITS,
    ROW_MASK,
    ClipIndex,
    CorpusClips,
    clip_keys,
)
from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.layout import Layout
from manifests.cache.marker_index import DataFile
from manifests.cache.page_offsets import BlobsInPlace, TeacherPages
from manifests.cache.row_views import row_views, stream_columns
from manifests.cache.shard_files import data_file
from manifests.cache.shards import Failure
from manifests.cache.stream_sums import Statistics, Sums
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from manifests.storage import Folder, in_parallel
from manifests.streams.specs import TeacherSpec
from manifests.streams.transcript import Transcript

GROUPS_IN_PLACE = 1 << 14
"""Number of row groups whose blob positions a teacher's reader keeps (a few kB each)."""
SHARDS_AHEAD = 3
"""Number of shards of a remote cache that a scan with local copies prefetches in parallel."""
OPEN_FILES = 128
"""Parquet files kept open per teacher (footers parsed, memory-mapped where local)."""
COMPARED_SHARDS = 4096
"""Number of shards whose audio digests are kept, to compare several teachers (2 kB each)."""


@dataclass(frozen=True, slots=True)
class _Shard:
    """One committed shard and the location of its files."""

    folder: Folder
    corpus: str
    file: DataFile


@dataclass(frozen=True, slots=True)
class _File:
    """A shard's data file, open."""

    parquet: pq.ParquetFile
    content: memoryview | None
    """The whole content, memory-mapped, if the file is on a local disk."""


class OpenCache(Protocol):
    """The part of a `CacheReader` that a teacher's reader uses."""

    layout: Layout

    def teacher(self, name: str) -> TeacherReader:
        """Opens one teacher's targets."""
        ...

    def opened(self) -> list[TeacherReader]:
        """The teachers that were opened so far."""
        ...

    def corpus_clips(self, corpora: Sequence[str]) -> CorpusClips:
        """The clips of some of the corpora."""
        ...


class TeacherReader:
    """One version of one teacher, over all its committed shards."""

    def __init__(
        self,
        cache: OpenCache,
        spec: TeacherSpec,
        corpora: Mapping[str, Corpus],
        local_copies: str | Path | None,
        check_pages: bool,
    ) -> None:
        self.spec = spec
        self._cache = cache
        self._check_pages = check_pages
        self._copies = Folder(local_copies).child(spec.key) if local_copies else None
        self._corpora = corpora
        folders = {name: cache.layout.shards(spec, name) for name in corpora}
        contents = list(in_parallel(marker_index.read_data_files, list(folders.values())))
        self._contents = contents
        self.shards = [
            _Shard(folder, corpus, file)
            for (corpus, folder), part in zip(folders.items(), contents, strict=True)
            for file in part.files
        ]
        clips = cache.corpus_clips(list(dict.fromkeys(shard.corpus for shard in self.shards)))
        ordinals = [self._checked_ordinal(clips, shard) for shard in self.shards]
        failed = clip_keys(clip_id for part in contents for clip_id in part.failed_ids)
        self._index = ClipIndex(clips, ordinals, failed)
        self._columns: list[str] = ["clip_id", "duration"]
        self._file = functools.lru_cache(OPEN_FILES)(self._open)
        self._durations = functools.lru_cache(8)(self._read_durations)
        self._group = functools.lru_cache(4)(self._read_group)
        self._in_place = functools.lru_cache(GROUPS_IN_PLACE)(self._locate_blobs)
        self._pages = TeacherPages([s.file.rows for s in self.shards], spec, check=check_pages)
        self._digests = functools.lru_cache(COMPARED_SHARDS)(self.row_digests)
        self._changed = functools.lru_cache(COMPARED_SHARDS)(self._compare_digests)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self._cache, self.spec.key)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, clip_id: str) -> bool:
        return self._index.find(clip_id) is not None

    @property
    def ids(self) -> list[str]:
        """Ids of the clips that have targets, in storage order."""
        return [
            clip_id for ordinal in range(len(self.shards)) for clip_id in self._row_ids(ordinal)
        ]

    def failures(self) -> Iterator[Failure]:
        """The clips without targets, with the reason."""
        for corpus in self._corpora:
            for marker in marker_index.read_markers(self._cache.layout.shards(self.spec, corpus)):
                yield from marker.failed

    def unreadable_keys(self) -> np.ndarray:
        """Keys (`clip_index.clip_keys`) of the clips whose audio could not be decoded."""
        failures = self.failures() if any(part.failed_ids for part in self._contents) else ()
        return clip_keys(failure.clip_id for failure in failures if failure.stage == "decode")

    def statistics(self, stream: str) -> Statistics:
        """Computes mean and deviation of a stream over all its stored frames."""
        total = Sums.zero(self.spec.stream(stream).dim)
        for sums in self._sums:
            if stream in sums:
                total.add(sums[stream])
        return total.statistics()

    @functools.cached_property
    def _sums(self) -> list[dict[str, Sums]]:
        """The sums over each corpus."""
        return [contents.sums() for contents in self._contents]

    @property
    def digest(self) -> str:
        """A hash of the names of the data files, which changes with any committed shard."""
        names = "\n".join(f"{shard.corpus}/{shard.file.data}" for shard in self.shards)
        return hashlib.sha256(f"{self.spec.key}\n{names}".encode()).hexdigest()

    def covers(self, key_N: np.ndarray) -> np.ndarray:
        """Whether each clip has targets. `key_N` comes from `clip_index.clip_keys`."""
        return self._index.places(key_N) != ABSENT

    def durations(self, key_N: np.ndarray) -> np.ndarray:
        """Reads the audio durations of many clips in seconds, NaN for clips without targets.

        Only the column of durations is read, never frames.
        """
        place_N = self._index.places(key_N)
        seconds_N = np.full(len(key_N), np.nan)
        ordinal_N = np.where(place_N == ABSENT, ABSENT, place_N >> ROW_BITS)
        for ordinal in np.unique(ordinal_N[ordinal_N != ABSENT]).tolist():
            rows = np.flatnonzero(ordinal_N == ordinal)
            seconds_N[rows] = self._durations(ordinal)[place_N[rows] & ROW_MASK]
        return seconds_N

    def row(self, clip_id: str, stream: str) -> tuple[float, EncodedFrames]:
        """Reads (duration in seconds, frames) of a clip.

        Raises:
            KeyError: there is no row for the clip.
        """
        ordinal, group, row = self._find(clip_id)
        in_place, content = self._in_place(ordinal, group, stream), self._file(ordinal).content
        if in_place is None or content is None:
            batch = self._batch(clip_id, ordinal, group, row, self._want(stream))
            (frames,) = row_views(batch.slice(row, 1), self.spec.stream(stream))
            return batch.column("duration")[row].as_py(), frames
        if in_place.ids[row] != clip_id:
            raise self._misplaced(ordinal, in_place.ids[row], clip_id)
        return in_place.row(row, content)

    def metadata(self, clip_id: str) -> dict[str, Any]:
        """The metadata of a clip's row: transcript, notes, warnings about the audio.

        Raises:
            KeyError: there is no row for the clip.
        """
        ordinal, group, row = self._find(clip_id)
        batch = self._batch(clip_id, ordinal, group, row, ("clip_id", "metadata"))
        return json.loads(batch.column("metadata")[row].as_py())

    def transcript(self, clip_id: str) -> Transcript:
        """The text, words and notes of a clip.

        Raises:
            KeyError: the teacher has no row for the clip.
        """
        return Transcript.from_metadata(self.metadata(clip_id))

    def scan(self, streams: Sequence[str]) -> Iterator[tuple[str, dict[str, EncodedFrames]]]:
        """Yields (clip id, frames by stream) of every row, in storage order."""
        specs = [self.spec.stream(name) for name in streams]
        columns = ["clip_id", *(name for spec in specs for name in stream_columns(spec.name))]
        for ordinal, file in enumerate(self._files_in_order()):
            expected, row = self._row_ids(ordinal), 0
            changed = self._changed_rows(ordinal)
            for batch in file.iter_batches(64, columns=columns, use_threads=False):
                ids = batch.column("clip_id").to_pylist()
                for clip_id, sought in zip(ids, expected[row : row + len(ids)], strict=True):
                    if clip_id != sought:
                        raise self._misplaced(ordinal, clip_id, sought)
                for place in changed:
                    if row <= place < row + len(ids):
                        raise self._other_audio(ids[place - row], changed[place])
                row += len(ids)
                views = {spec.name: row_views(batch, spec) for spec in specs}
                for place, clip_id in enumerate(ids):
                    yield clip_id, {name: view[place] for name, view in views.items()}

    def make_copies(self) -> None:
        """Fetches the shards without a local copy, in storage order; runs in another thread."""
        for ordinal in range(len(self.shards) if self._copies is not None else 0):
            self._fetch(ordinal)

    def _want(self, stream: str) -> tuple[str, ...]:
        """Columns of every stream requested so far, so that one read serves all of them."""
        if f"{stream}.frames" not in self._columns:
            self.spec.stream(stream)
            self._columns += stream_columns(stream)
        return tuple(self._columns)

    def _find(self, clip_id: str) -> tuple[int, int, int]:
        """Finds (shard ordinal, row group, row within it) of a clip."""
        place = self._index.find(clip_id)
        if place is None:
            raise KeyError(f"teacher {self.spec.key} has no targets for the clip {clip_id}")
        ordinal, row = place
        changed = self._changed_rows(ordinal)
        if row in changed:
            raise self._other_audio(clip_id, changed[row])
        return ordinal, *divmod(row, shards.ROWS_PER_GROUP)

    def _batch(
        self, clip_id: str, ordinal: int, group: int, row: int, columns: tuple[str, ...]
    ) -> pa.RecordBatch:
        """Reads a row group, and checks that its row `row` belongs to the clip."""
        batch = self._group(ordinal, group, columns)
        stored = batch.column("clip_id")[row].as_py()
        if stored != clip_id:
            raise self._misplaced(ordinal, stored, clip_id)
        return batch

    def _misplaced(self, ordinal: int, stored: str, sought: str) -> UserError:
        return UserError(
            f"{self.shards[ordinal].file.data} of {self.spec.key} has {stored!r} instead of "
            f"{sought!r}; run: coat-cache verify --deep --repair, then build again"
        )

    def _read_group(self, ordinal: int, group: int, columns: tuple[str, ...]) -> pa.RecordBatch:
        table = self._file(ordinal).parquet.read_row_group(
            group, columns=columns, use_threads=False
        )
        return table.combine_chunks().to_batches()[0]

    def _read_durations(self, ordinal: int) -> np.ndarray:
        table = self._file(ordinal).parquet.read(columns=["duration"], use_threads=False)
        return table.column(0).to_numpy()

    def _locate_blobs(self, ordinal: int, group: int, stream: str) -> BlobsInPlace | None:
        file, spec, page = self._file(ordinal), self.spec.stream(stream), (ordinal, group, stream)
        if file.content is None:
            return None
        return self._pages.locate(page, file.parquet, file.content, spec)

    def _files_in_order(self) -> Iterator[pq.ParquetFile]:
        """Yields every shard's file. Shards of a remote cache are prefetched in the background."""
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
        """The folder from which a shard's data is read, after making the local copy if needed."""
        shard = self.shards[ordinal]
        if self._copies is None or shard.folder.is_local:
            return shard.folder
        copy, name = self._copies.child(shard.corpus), data_file(shard.file.data)
        if copy.size(name) != shard.file.data_bytes:
            copy.write_atomic(name, shard.folder.read_bytes(name))
        return copy

    def _open(self, ordinal: int) -> _File:
        commit, folder = self.shards[ordinal].file, self._fetch(ordinal)
        source: Any = folder.open(data_file(commit.data), memory_map=True)
        content = None
        if folder.is_local:
            # The memory map outlives the file, so an open shard needs no file handle.
            with source:
                content = source.read_buffer()
            source = pa.BufferReader(content)
        file = pq.ParquetFile(source, page_checksum_verification=self._check_pages)
        if file.metadata.num_rows != commit.rows:
            raise UserError(
                f"{commit.data} of {self.spec.key} has {file.metadata.num_rows} rows, its marker "
                f"says {commit.rows}; run: coat-cache verify --deep --repair, then build again"
            )
        return _File(file, None if content is None else memoryview(content))

    def _checked_ordinal(self, clips: CorpusClips, shard: _Shard) -> int:
        """Checks that a shard was made from the clips of a corpus, and returns its ordinal."""
        number = shard.file.shard
        if number < self._corpora[shard.corpus].num_shards:
            ordinal = clips.ordinal(shard.corpus, number)
            if clips.digests[ordinal] == shard.file.clips_digest:
                return ordinal
        raise UserError(
            f"shard {number} of {self.spec.key} was not made from the clips that corpus "
            f"{shard.corpus!r} has; run: coat-cache verify --deep --repair, then build again"
        )

    def _row_ids(self, ordinal: int) -> list[str]:
        shard = self.shards[ordinal]
        failed = self._index.failed_positions(ordinal)
        ids = self._corpora[shard.corpus].shard_ids(shard.file.shard)
        return [clip_id for position, clip_id in enumerate(ids) if position not in failed]

    def row_digests(self, corpus: str, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Reads position and audio digest of each row of a shard (`audio_digests.read`)."""
        ordinal = self._ordinals.get((corpus, number))
        if ordinal is None:
            return None
        shard, file = self.shards[ordinal], self._file(ordinal)
        local_file = None if file.content is None else file.parquet
        digest_N = audio_digests.read(shard.folder, shard.file, local_file)
        if digest_N is None:
            return None
        failed = list(self._index.failed_positions(ordinal))
        return np.setdiff1d(np.arange(shard.file.clips), failed), digest_N

    def _changed_rows(self, ordinal: int) -> dict[int, str]:
        """Maps rows of a shard to another open teacher that processed different audio for them."""
        opened = self._cache.opened()
        return self._changed(ordinal, len(opened)) if len(opened) > 1 else {}

    def _compare_digests(self, ordinal: int, _: int) -> dict[int, str]:
        """See `_changed_rows`. The second argument is a cache key for the open teachers."""
        place = self.shards[ordinal].corpus, self.shards[ordinal].file.shard
        others = [other for other in self._cache.opened() if other is not self]
        return audio_digests.differing_rows(
            self._digests(*place), {other.spec.key: other._digests(*place) for other in others}
        )

    @functools.cached_property
    def _ordinals(self) -> dict[tuple[str, int], int]:
        """(corpus, number) of each shard -> its ordinal."""
        return {
            (shard.corpus, shard.file.shard): ordinal for ordinal, shard in enumerate(self.shards)
        }

    def _other_audio(self, clip_id: str, other: str) -> UserError:
        return UserError(
            f"{self.spec.key} and {other} processed different audio for the clip {clip_id!r}: "
            "its file changed between their builds; run: coat-cache audit --content-only --sample "
            "0 --repair, then build again"
        )


def _open_again(cache: OpenCache, key: str) -> TeacherReader:
    """Opens a version's reader again, when it is unpickled in another process."""
    return cache.teacher(key)
