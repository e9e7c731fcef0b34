"""A shard of the cache: one teacher's targets for one slice of a corpus, and its commit marker.

A data file is never changed: its name contains the start of its SHA-256. The marker, a small JSON
file that is written last and replaced atomically, lists the data file and the failures of the
shard. A killed job therefore leaves either the old state or the new one, concurrent jobs end in a
consistent state, and readers of the old state are not disturbed. To read the markers of many
shards, use `manifests.cache.marker_index`.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.atomic_file import AtomicFile
from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.shard_files import (
    DATA,
    DATA_NAME,
    MARKER_NAME,
    MARKERS,
    failures_file,
    marker_file,
)
from manifests.cache.stream_sums import Sums
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.streams.codecs import CODECS
from manifests.streams.pitch_bins import CREPE_BINS
from manifests.streams.specs import TeacherSpec
from manifests.streams.transcript import Transcript
from manifests.uploads import SpooledUpload

ROWS_PER_GROUP = 8
"""Rows that a random access reads together; sizes of 4 to 16 are about equally fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One clip's targets by one teacher."""

    clip_id: str
    duration: float
    """Duration of the audio that the teacher processed, in seconds."""
    audio_digest: str
    """Digest of the decoded samples (`manifests.audio`)."""
    metadata: dict[str, Any]
    frames: dict[str, EncodedFrames]
    """Stream name -> frames."""

    @property
    def transcript(self) -> Transcript:
        """The text, words and notes of the metadata."""
        return Transcript.from_metadata(self.metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The reason why one clip has no targets by one teacher."""

    clip_id: str
    stage: str
    """`decode` or `extract`."""
    error: str
    """A short, stable code for counting."""
    message: str
    cause: str = "clip"
    """`clip`: the clip itself; another attempt would fail in the same way. `worker`: two processes
    died on the clip or did not return from it. Failures of the environment (store, network, lost
    nodes) are never recorded. Caches written before this field existed are read as `clip`."""


AUDIO_WARNINGS = "audio_warnings"
"""Key of a row's metadata that lists the faults of the clip's audio (`AudioWarning.kind`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """The commit of one shard."""

    shard: int
    clips: int
    """Number of clips in the shard: rows + failures."""
    rows: int
    failures: dict[str, int]
    """Error code -> count."""
    seconds: float
    """Audio seconds in the rows."""
    extract_seconds: float
    """Worker seconds spent in the teacher, without loading and decoding."""
    finished: str
    """UTC, ISO 8601."""
    clips_digest: str
    """Digest of the shard's clip ids, to detect a shard of another corpus."""
    data: str
    """Name of the Parquet file."""
    data_bytes: int
    data_sha256: str
    failures_data: str = ""
    """Format 1 only: name of the failures' Parquet file, or empty."""
    failures_sha256: str = ""
    """Format 1 only."""
    sums: dict[str, dict] = field(default_factory=dict)
    """Stream name -> `Sums.to_json`. Empty in markers read from the marker index."""
    failed: tuple[Failure, ...] = ()
    """The clips without targets, in the order of the shard. Format 1 stores them in a separate
    file: `read_failures` reads both."""
    digests: str = ""
    """`hash_digests` of the rows, in base64. Empty in format 1 and in markers read from the marker
    index."""
    versions: dict[str, str] = field(default_factory=dict)
    """Library -> version in the processes that made the shard, decoders included."""
    warnings: dict[str, int] = field(default_factory=dict)
    """Fault of the audio -> number of clips that have targets despite it (`docs/audio.md`)."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Marker:
        """Reads a marker file.

        Raises:
            ValueError: the content is not a valid marker.
        """
        try:
            fields = json.loads(data)
            failed = tuple(Failure(**failure) for failure in fields.pop("failed", ()))
            marker = cls(**fields, failed=failed)
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from None
        for name in (marker.data, marker.failures_data or marker.data):
            if not isinstance(name, str) or not DATA_NAME.fullmatch(name):
                raise ValueError(f"it names the file {name!r}")
        return marker

    def to_bytes(self) -> bytes:
        """The content of a marker file."""
        return json.dumps(asdict(self)).encode()

    def row_digests(self) -> np.ndarray | None:
        """A hash of each row's audio digest (`hash_digests`); None if the marker has no digests."""
        if not self.digests:
            return None
        return np.frombuffer(base64.b64decode(self.digests), ">u8")


def hash_digests(digests: Iterable[str]) -> np.ndarray:
    """Hashes each audio digest's text to 8 bytes of BLAKE2b, as big-endian uint64."""
    hashes = [hashlib.blake2b(digest.encode(), digest_size=8).digest() for digest in digests]
    return np.frombuffer(b"".join(hashes), ">u8")


def digest_ids(clip_ids: Iterable[str]) -> str:
    """Computes a digest of clip ids in order."""
    return hashlib.sha256("\n".join(clip_ids).encode()).hexdigest()[:32]


def schema(spec: TeacherSpec) -> pa.Schema:
    """Columns of a teacher's shards. Each frames column carries its stream's spec as metadata."""
    fields = [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("duration", pa.float64(), nullable=False, metadata={"unit": "s"}),
        pa.field("audio_digest", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False, metadata={"encoding": "JSON object"}),
    ]
    for stream in spec.streams:
        described = {
            name: str(getattr(stream, name))
            for name in ("kind", "codec", "dim", "start_s", "hop_s", "window_s", "unit")
        }
        if stream.pitch_bins != CREPE_BINS:
            described |= {name: str(value) for name, value in asdict(stream.pitch_bins).items()}
        frames = pa.field(f"{stream.name}.frames", pa.binary(), False, metadata=described)
        fields += [frames, pa.field(f"{stream.name}.num_frames", pa.int32(), nullable=False)]
    return pa.schema(fields, metadata={"teacher": spec.key, "license": spec.license})


def to_parquet(rows: Iterable[Row], spec: TeacherSpec) -> pa.Buffer:
    """Rows as the bytes of a Parquet file; the same rows give the same bytes."""
    sink = pa.BufferOutputStream()
    _write_rows(rows, spec, sink)
    return sink.getvalue()


def _write_rows(
    rows: Iterable[Row], spec: TeacherSpec, sink: _Digested | pa.BufferOutputStream
) -> None:
    """Writes one row group at a time, so that only one is in memory."""
    columns = schema(spec)
    compression = {name: "zstd" for name in columns.names}
    for stream in spec.streams:
        if not CODECS[stream.codec].is_compressed:
            compression[f"{stream.name}.frames"] = "none"
    options: dict[str, Any] = {
        "compression": compression,
        "use_dictionary": False,
        "write_statistics": ["clip_id"],
        "write_page_checksum": True,
        "data_page_size": 1 << 30,
    }
    rows = iter(rows)
    group = list(itertools.islice(rows, ROWS_PER_GROUP))
    with pq.ParquetWriter(sink, columns, **options) as writer:
        # A shard without rows has one empty row group.
        writer.write_table(_to_table(group, spec), row_group_size=ROWS_PER_GROUP)
        while group := list(itertools.islice(rows, ROWS_PER_GROUP)):
            writer.write_table(_to_table(group, spec), row_group_size=ROWS_PER_GROUP)


def _to_table(rows: Sequence[Row], spec: TeacherSpec) -> pa.Table:
    columns: dict[str, list] = {
        "clip_id": [row.clip_id for row in rows],
        "duration": [row.duration for row in rows],
        "audio_digest": [row.audio_digest for row in rows],
        "metadata": [json.dumps(row.metadata, ensure_ascii=False) for row in rows],
    }
    for stream in spec.streams:
        frames = [row.frames[stream.name] for row in rows]
        columns[f"{stream.name}.frames"] = [encoded.blob for encoded in frames]
        columns[f"{stream.name}.num_frames"] = [encoded.num_frames for encoded in frames]
    return pa.table(columns, schema=schema(spec))


class _Digested:
    """Passes what is written to a file, and computes its SHA-256."""

    closed = False

    def __init__(self, file: AtomicFile | SpooledUpload) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Appends bytes."""
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Returns the number of bytes so far."""
        return self.size

    def flush(self) -> None:
        """Does nothing: the file is flushed when it is published."""


@dataclass(slots=True)
class _Written:
    """Summary of the rows written to a file, without their frames."""

    clip_ids: list[str]
    digests: list[str]
    seconds: float
    warnings: Counter[str] = field(default_factory=Counter)

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.clip_ids.append(row.clip_id)
            self.digests.append(row.audio_digest)
            self.seconds += row.duration
            self.warnings.update(row.metadata.get(AUDIO_WARNINGS, ()))
            yield row


def write(
    folder: Folder,
    spec: TeacherSpec,
    *,
    shard: int,
    clip_ids: Sequence[str],
    rows: Iterable[Row],
    failures: Sequence[Failure],
    sums: dict[str, Sums],
    extract_seconds: float,
    finished: str,
    versions: Mapping[str, str] | None = None,
) -> Marker:
    """Commits a shard: the data, then the marker.

    Rows are consumed while they are written (`Folder.new_file`), `ROWS_PER_GROUP` at a time.

    Args:
        folder: The teacher's folder for this corpus (`manifests.cache.layout.Layout.shards`).
        spec: The teacher's version.
        shard: Number of the shard.
        clip_ids: Ids of the shard's clips, in order; each is either in `rows` or in `failures`.
        rows: In the order of `clip_ids`.
        failures: In the order of `clip_ids`.
        sums: Per stream, over `rows`.
        extract_seconds: Worker time of the teacher.
        finished: UTC, ISO 8601.
        versions: Library -> version in the processes that made the rows.
    """
    written = _Written([], [], 0.0)
    with folder.new_file(DATA) as file:
        sink = _Digested(file)
        _write_rows(written.watch(rows), spec, sink)
        accounted = sorted(written.clip_ids + [failure.clip_id for failure in failures])
        assert accounted == sorted(clip_ids), "every clip must be in exactly one row or failure"
        size, digest = sink.size, sink.digest.hexdigest()
        name = f"{shard:07d}-{digest[:8]}.parquet"
        file.publish(name)
    counts: dict[str, int] = {}
    for failure in failures:
        counts[failure.error] = counts.get(failure.error, 0) + 1
    marker = Marker(
        shard=shard,
        clips=len(clip_ids),
        rows=len(written.clip_ids),
        failures=counts,
        seconds=round(written.seconds, 6),
        extract_seconds=round(extract_seconds, 4),
        finished=finished,
        clips_digest=digest_ids(clip_ids),
        data=name,
        data_bytes=size,
        data_sha256=digest,
        sums={name: part.to_json() for name, part in sums.items()},
        failed=tuple(failures),
        digests=base64.b64encode(hash_digests(written.digests).tobytes()).decode(),
        versions=dict(versions or {}),
        warnings=dict(sorted(written.warnings.items())),
    )
    folder.write_atomic(marker_file(shard), marker.to_bytes())
    return marker


def read_marker(folder: Folder, shard: int) -> Marker:
    """Reads a shard's complete marker.

    Raises:
        FileNotFoundError: the shard is not committed.
        UserError: the file is not a marker.
    """
    return parse_marker(folder, shard, folder.read_bytes(marker_file(shard)))


def parse_marker(folder: Folder, shard: int, content: bytes) -> Marker:
    """A marker from the content of its file.

    Raises:
        UserError: the file is not a marker.
    """
    try:
        return Marker.from_bytes(content)
    except ValueError as error:
        raise UserError(
            f"{folder.uri}/{marker_file(shard)} is not a marker ({error}); run: "
            "coat-cache verify --repair, then build again"
        ) from None


def committed(folder: Folder) -> list[int]:
    """Numbers of the committed shards, from one listing."""
    return list(marker_stamps(folder))


def marker_stamps(folder: Folder) -> dict[int, tuple[int, int]]:
    """Maps the number of each committed shard to (bytes, modification time in ns) of its marker,
    ascending."""
    stamps = {
        int(match[1]): stamp
        for name, stamp in folder.child(MARKERS).stamps().items()
        if (match := MARKER_NAME.fullmatch(name))
    }
    return dict(sorted(stamps.items()))


def read_failures(folder: Folder, marker: Marker) -> list[Failure]:
    """The failures of a committed shard."""
    if marker.failed or not marker.failures_data:
        return list(marker.failed)
    with folder.open(failures_file(marker.failures_data)) as file:
        return [Failure(**fields) for fields in pq.read_table(file).to_pylist()]
