"""Compacts the markers of a teacher's shards into a few files, which are read instead of them.

    teachers/NAME@FINGERPRINT/CORPUS/index/0000000.parquet    markers of shards 0 to 1023
    teachers/NAME@FINGERPRINT/CORPUS/index/0001024.parquet    of the next 1024, and so on

Ten million clips have 39,000 markers per teacher; reading them one by one from an object store
takes hours. The index contains the same information in 39 files. It is only a cache of the markers:
every entry is checked against one listing of them (size and modification time). A marker that is
new, changed or not indexed is read directly, so a missing or outdated index costs time but never
changes a result. Builds and `coat-cache compact` keep it up to date.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.cache import shards
from manifests.cache.shard_files import DATA_NAME, INDEX, index_file
from manifests.cache.shards import Marker
from manifests.cache.stream_sums import Sums
from manifests.repeating import repeated
from manifests.storage import Folder, in_parallel

log = logging.getLogger(__name__)

SEGMENT = 1024
"""Number of shards per index file."""
REFRESH_SECONDS = 300.0
"""Time between two updates of the index while a build runs."""
SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False, metadata={"unit": "bytes"}),
        pa.field("changed", pa.int64(), nullable=False, metadata={"unit": "ns since 1970"}),
        pa.field("marker", pa.string(), nullable=False, metadata={"encoding": "JSON object"}),
    ]
)
DATA_COLUMNS = [
    pa.field("clips", pa.int64(), nullable=False),
    pa.field("rows", pa.int64(), nullable=False),
    pa.field("clips_digest", pa.string(), nullable=False),
    pa.field("data", pa.string(), nullable=False),
    pa.field("data_bytes", pa.int64(), nullable=False),
    pa.field("failed_ids", pa.list_(pa.string()), nullable=False),
]
"""Fields of `marker` in columns of their own for `read_data_files`, because parsing the JSON of
39,000 markers takes seconds. Index files of earlier versions lack these columns."""

Stamp = tuple[int, int]
"""Size in bytes and modification time of a marker."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The markers of up to `SEGMENT` neighbouring shards."""

    markers: list[Marker]
    """Ordered by shard, with failures but without sums and digests."""
    sums: dict[str, Sums]
    """Stream name -> sums over all rows of these shards; empty unless asked for."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """The fields of a marker that are needed to read its targets."""

    shard: int
    clips: int
    rows: int
    clips_digest: str
    data: str
    data_bytes: int


@dataclass(slots=True)
class DataFiles:
    """The data files of one teacher's version over one corpus, in order of the shards."""

    files: list[DataFile] = field(default_factory=list)
    failed_ids: list[str] = field(default_factory=list)
    """Ids of the clips without targets."""
    sums_by_segment: list[dict[str, Sums] | Callable[[], dict[str, Sums]]] = field(
        default_factory=list
    )
    """Sums that are not indexed are read on demand."""

    def sums(self) -> dict[str, Sums]:
        """Returns the sums over all rows of these files, by stream name."""
        total: dict[str, Sums] = {}
        for part in self.sums_by_segment:
            _add(total, part() if callable(part) else part)
        return total


class _Indexed:
    """The content of an index file.

    Args:
        table: Its rows.
        sums: Stream name -> sums over all rows of its shards.
    """

    def __init__(self, table: pa.Table, sums: dict[str, Sums]) -> None:
        self.table = table
        self.sums = sums

    @cached_property
    def stamps(self) -> dict[int, Stamp]:
        """Shard -> the marker's stamp when it was indexed."""
        shard, size, changed = (
            self.table.column(name).to_pylist() for name in ("shard", "size", "changed")
        )
        return dict(zip(shard, zip(size, changed, strict=True), strict=True))

    @cached_property
    def texts(self) -> dict[int, str]:
        """Shard -> the marker as JSON."""
        texts = self.table.column("marker").to_pylist()
        return dict(zip(self.stamps, texts, strict=True))

    def data_files(self) -> tuple[list[DataFile], list[str]] | None:
        """The data files and the failed clips; None where the file lacks these columns."""
        if DATA_COLUMNS[0].name not in self.table.column_names:
            return None
        names = ["shard", *(column.name for column in DATA_COLUMNS[:-1])]
        columns = (self.table.column(name).to_pylist() for name in names)
        files = [DataFile(*row) for row in zip(*columns, strict=True)]
        if not all(DATA_NAME.fullmatch(file.data) for file in files):
            return None
        failed = self.table.column(DATA_COLUMNS[-1].name).combine_chunks()
        return files, failed.flatten().to_pylist()


def read(folder: Folder, *, sums: bool = False) -> Iterator[Segment]:
    """Reads all markers of one teacher's version over one corpus, in order.

    Args:
        folder: `manifests.cache.layout.Layout.shards`.
        sums: Whether to read the sums per stream, too.

    Raises:
        UserError: a marker is broken.
    """
    for _, stamps, indexed in _segments(folder):
        if sums:
            yield _with_sums(folder, stamps, indexed)
        else:
            yield Segment(list(_markers(folder, stamps, indexed)), {})


def read_markers(folder: Folder) -> Iterator[Marker]:
    """Reads all markers in order, with their failures but without sums and digests."""
    for segment in read(folder):
        yield from segment.markers


def read_sums(folder: Folder) -> dict[str, Sums]:
    """Reads the sums over all rows, by stream name."""
    total: dict[str, Sums] = {}
    for _, stamps, indexed in _segments(folder):
        _add(total, _sums(folder, stamps, indexed))
    return total


def read_data_files(folder: Folder) -> DataFiles:
    """The data files of a version of a teacher over a corpus, and their sums, by one listing."""
    contents = DataFiles()
    for _, stamps, indexed in _segments(folder):
        files = indexed.data_files() if indexed.stamps == stamps else None
        sums: dict[str, Sums] | Callable[[], dict[str, Sums]] = indexed.sums
        if files is None:
            if _still_holds(indexed, stamps):
                segment = _with_sums(folder, stamps, indexed)
                markers, sums = segment.markers, segment.sums
            else:
                # All markers of the segment would have to be read for sums that may not be needed.
                markers = list(_markers(folder, stamps, indexed))
                sums = partial(_sums, folder, stamps, indexed)
            failed = [failure.clip_id for marker in markers for failure in marker.failed]
            files = [_data_file(marker) for marker in markers], failed
        contents.files += files[0]
        contents.failed_ids += files[1]
        contents.sums_by_segment.append(sums)
    return contents


def refresh(folder: Folder) -> int:
    """Updates the index to match the markers.

    Returns:
        Number of index files written.
    """
    written = 0
    for first, stamps, indexed in _segments(folder):
        if indexed.stamps == stamps and indexed.data_files() is not None:
            continue
        segment = _with_sums(folder, stamps, indexed)
        if not segment.markers:
            continue
        rows = [
            {
                "shard": marker.shard,
                "size": stamps[marker.shard][0],
                "changed": stamps[marker.shard][1],
                "marker": json.dumps(asdict(marker)),
                **asdict(_data_file(marker)),
                "failed_ids": [failure.clip_id for failure in marker.failed],
            }
            for marker in segment.markers
            if marker.shard in stamps
        ]
        sums = {stream: part.to_json() for stream, part in segment.sums.items()}
        schema = pa.schema([*SCHEMA, *DATA_COLUMNS], {"sums": json.dumps(sums)})
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd",
            write_page_checksum=True,
        )  # fmt: skip
        folder.write_atomic(index_file(_file_name(first)), sink.getvalue())
        written += 1
    return written


@contextmanager
def kept_up_to_date(folders: Sequence[Folder]) -> Iterator[None]:
    """Refreshes the index of some folders every few minutes, and once at the end.

    Failing to write the index only costs readers time, so failures are only logged.
    """

    def refresh_all() -> None:
        for folder in folders:
            try:
                refresh(folder)
            except Exception as error:  # noqa: BLE001  (a derived file must never end a build)
                log.warning("the marker index of %s was not written: %s", folder.uri, error)

    try:
        with repeated(refresh_all, every_s=REFRESH_SECONDS, name="marker-index"):
            yield
    finally:
        refresh_all()


def _segments(folder: Folder) -> Iterator[tuple[int, dict[int, Stamp], _Indexed]]:
    """Yields (first shard, stamps of its markers, its index or None) of every segment."""
    groups: dict[int, dict[int, Stamp]] = {}
    for number, stamp in shards.marker_stamps(folder).items():
        groups.setdefault(number // SEGMENT * SEGMENT, {})[number] = stamp
    present = set(folder.child(INDEX).names()) if groups else set()

    def load(first: int) -> _Indexed:
        return _load(folder, first) if _file_name(first) in present else _nothing_indexed()

    firsts = list(groups)
    loaded = map(load, firsts) if folder.is_local else in_parallel(load, firsts)
    for first, indexed in zip(firsts, loaded, strict=True):
        yield first, groups[first], indexed


def _load(folder: Folder, first: int) -> _Indexed:
    try:
        content = folder.read_bytes(index_file(_file_name(first)))
        table = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
        is_new = DATA_COLUMNS[0].name in table.column_names
        columns = [*SCHEMA, *(DATA_COLUMNS if is_new else ())]
        table = table.cast(pa.schema(columns, table.schema.metadata))
        sums = json.loads((table.schema.metadata or {})[b"sums"])
        return _Indexed(table, {stream: Sums.from_json(part) for stream, part in sums.items()})
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        log.info("the marker index %s/%s is not used: %s", folder.uri, _file_name(first), error)
        return _nothing_indexed()


def _nothing_indexed() -> _Indexed:
    return _Indexed(SCHEMA.empty_table(), {})


def _data_file(marker: Marker) -> DataFile:
    return DataFile(
        marker.shard, marker.clips, marker.rows, marker.clips_digest, marker.data, marker.data_bytes
    )


def _markers(folder: Folder, stamps: Mapping[int, Stamp], indexed: _Indexed) -> Iterator[Marker]:
    """The markers of a segment, taken from the index where it is up to date."""
    known = {
        number: Marker.from_bytes(indexed.texts[number].encode())
        for number, stamp in stamps.items()
        if indexed.stamps.get(number) == stamp
    }
    others = (number for number in stamps if number not in known)
    fresh = {marker.shard: marker for marker in _read(folder, list(others))}
    for number in stamps:
        if number in known:
            yield known[number]
        elif number in fresh:
            yield _slim(fresh[number])


def _still_holds(indexed: _Indexed, stamps: Mapping[int, Stamp]) -> bool:
    return all(stamps.get(number) == stamp for number, stamp in indexed.stamps.items())


def _sums(folder: Folder, stamps: Mapping[int, Stamp], indexed: _Indexed) -> dict[str, Sums]:
    is_whole = indexed.stamps == stamps
    return indexed.sums if is_whole else _with_sums(folder, stamps, indexed).sums


def _with_sums(folder: Folder, stamps: Mapping[int, Stamp], indexed: _Indexed) -> Segment:
    """The same with sums. The indexed sums are used if none of their markers has changed."""
    base = indexed if _still_holds(indexed, stamps) else _nothing_indexed()
    markers = {number: Marker.from_bytes(text.encode()) for number, text in base.texts.items()}
    total: dict[str, Sums] = {}
    _add(total, base.sums)
    for marker in _read(folder, [number for number in stamps if number not in base.stamps]):
        _add(total, {stream: Sums.from_json(part) for stream, part in marker.sums.items()})
        markers[marker.shard] = _slim(marker)
    return Segment([markers[number] for number in stamps if number in markers], total)


def _read(folder: Folder, numbers: Sequence[int]) -> Iterator[Marker]:
    """Reads markers from their files. Markers that were set aside after the listing are skipped."""

    def marker(number: int) -> Marker | None:
        try:
            stored = shards.read_marker(folder, number)
        except FileNotFoundError:
            return None
        if stored.failures_data and not stored.failed:
            stored = replace(stored, failed=tuple(shards.read_failures(folder, stored)))
        return replace(stored, shard=number)

    markers = map(marker, numbers) if folder.is_local else in_parallel(marker, numbers)
    return (each for each in markers if each is not None)


def _slim(marker: Marker) -> Marker:
    return replace(marker, sums={}, digests="")


def _add(total: dict[str, Sums], more: Mapping[str, Sums]) -> None:
    for stream, part in more.items():
        if stream in total:
            total[stream].add(part)
        else:
            total[stream] = replace(part)


def _file_name(first: int) -> str:
    return f"{first:07d}.parquet"
