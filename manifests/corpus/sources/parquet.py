"""Reads Parquet files with an audio column in place: a clip's uri names file, row group and row.

The column is a struct of bytes and path, as the Audio feature of Hugging Face's datasets is stored,
or plain bytes. Bytes take precedence over the path, as in datasets. Class numbers become class
names where the file's schema names the classes. Rows without audio are skipped and counted.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.audio_address import ParquetRow, check_file_name
from manifests.clips import Clip, stable_id
from manifests.corpus.source_index import SourceIndex, number_key
from manifests.corpus.sources.folder_table import METADATA_PARQUET
from manifests.corpus.sources.json_lines import ID_KEYS, TEXT_KEYS, given_id, number, resolve
from manifests.corpus.sources.label_values import to_labels, to_seconds
from manifests.corpus.sources.parquet_columns import columns_of_labels, in_microseconds
from manifests.corpus.sources.parquet_footer import Footer
from manifests.corpus.sources.skipped_rows import SkippedRows
from manifests.decoders import probe
from manifests.decoders.files import AudioFile
from manifests.decoders.parquet_rows import is_bytes, read_audio
from manifests.errors import AudioError, UserError
from manifests.storage import Folder, filesystem, identity

MAX_ROW_GROUP = 1 << 31
"""Maximum bytes of audio in one row group: a reader holds a whole row group in memory."""
UNKNOWN = 0.0
"""In place of a length: the audio has none that its header tells."""
EMPTY = -2.0
"""In place of a length: the row's audio is 0 bytes."""
NO_BYTES = -1.0
"""In place of a length: there are no bytes in the row; it may have a path."""


def files_within(folder: Folder) -> list[str]:
    """Paths or addresses of the Parquet files in a folder, or in its folder `data`, sorted."""
    for place in (folder, folder.child("data")):
        try:
            names = [name for name in place.names() if name.lower().endswith(".parquet")]
            names = [name for name in names if name != METADATA_PARQUET and name[0] != "."]
        except UnicodeDecodeError:  # The walk through the audio folder reports the invalid name.
            return []
        if names:
            return [place.path(name) if place.is_local else f"{place.uri}/{name}" for name in names]
    return []


def clips(
    files: list[str], index: SourceIndex, *, features: Mapping[str, Any] | None = None
) -> Iterator[Clip]:
    """Yields the rows of Parquet files as clips, in order.

    Args:
        files: Paths or addresses.
        index: Index of the corpus, which remembers what was read.
        features: Features of datasets, for files that do not state their own.

    Raises:
        UserError: a file cannot be read or has no audio column, a row names a file that does not
            exist, or no row has audio.
    """
    skipped, count = SkippedRows(), 0
    for file in files:
        check_file_name(file)
        try:
            system, path = filesystem(file)
            uri = file if "://" in file else path
            known = _KnownAudio(index, uri, identity(uri))
            source = system.open_input_file(path)
            with pq.ParquetFile(source) as opened:
                footer = Footer(source)
                for clip in _File(uri, opened, footer, features, known, skipped).clips():
                    count += 1
                    yield clip
        except (pa.ArrowException, AudioError, OSError) as error:
            raise UserError(f"{file} cannot be read ({error}); copy or write it again") from None
    others = f" and {len(files) - 1:,} other files" if len(files) > 1 else ""
    skipped.log(f"{files[0]}{others}" if files else "", has_clips=count > 0)


class _KnownAudio:
    """The lengths of a file's audio, each row group read once in each state of the file."""

    def __init__(self, index: SourceIndex, uri: str, state: str | None) -> None:
        self._index, self._uri, self._state = index, uri, state

    def lengths(self, file: pq.ParquetFile, group: int, column: str) -> Sequence[float]:
        """Seconds, UNKNOWN or NO_BYTES of each row of a row group."""
        if self._state is None:
            return self._read(file, group, column)
        key = number_key("row group", self._uri, self._state, group, column)
        lengths = self._index.numbers(key)
        if lengths is None:
            lengths = self._read(file, group, column)
            self._index.add_numbers(key, lengths)
        return lengths

    def _read(self, file: pq.ParquetFile, group: int, column: str) -> Sequence[float]:
        return [_length(each.as_py()) for each in read_audio(file, group, column)]


def _length(data: bytes | None) -> float:
    if data is None:
        return NO_BYTES
    if not data:
        return EMPTY
    return probe.seconds(AudioFile(io.BytesIO(data), len(data))) or UNKNOWN


class _File:
    """One Parquet file, open."""

    def __init__(
        self,
        uri: str,
        opened: pq.ParquetFile,
        footer: Footer,
        features: Mapping[str, Any] | None,
        known: _KnownAudio,
        skipped: SkippedRows,
    ) -> None:
        self._uri, self._file, self._footer = uri, opened, footer
        self._known, self._skipped = known, skipped
        schema = opened.schema_arrow
        stated = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        self._features: Mapping[str, Any] = (
            (stated.get("info") or {}).get("features") or features or {}
        )
        self._column = self._audio_column(schema)
        kind = schema.field(self._column).type
        self._is_struct = isinstance(kind, pa.StructType)
        self._has_path = self._is_struct and kind.get_field_index("path") >= 0
        self._others, left_out = columns_of_labels(opened, self._column)
        skipped.columns |= set(left_out)

    def clips(self) -> Iterator[Clip]:
        """Yields every row that has audio as a clip."""
        for group in range(self._file.num_row_groups):
            rows = self._rows(group)
            audio = self._audio(group, needs_lengths=not all(row.get("duration") for row in rows))
            paths = self._paths(group)
            for index, row in enumerate(rows):
                place = ParquetRow(group, index, self._column)
                seconds = UNKNOWN if audio is None else audio[index]
                path = paths[index].as_py() if paths is not None and seconds == NO_BYTES else None
                if seconds == EMPTY or (seconds == NO_BYTES and not path):
                    self._skipped.add_row(f"{self._uri}{place}")
                    continue
                try:
                    uri = self._uri_of_path(path) if path else f"{self._uri}{place}"
                    if "://" not in uri and path and not Path(uri).stat().st_size:
                        self._skipped.add_row(f"{self._uri}{place}, {uri}")
                        continue
                    yield self._clip(row, uri, max(seconds, 0.0))
                except UserError as error:
                    raise UserError(f"{self._uri}{place}: {error}") from None

    def _rows(self, group: int) -> list[dict[str, Any]]:
        """The other columns of a row group, with class names and a duration in seconds."""
        if not self._others:
            return [{} for _ in range(self._file.metadata.row_group(group).num_rows)]
        table = self._file.read_row_group(group, columns=self._others)
        try:
            rows = in_microseconds(table).to_pylist()
        except (OverflowError, ValueError) as error:
            raise UserError(
                f"{self._uri} has a date or time in row group {group} that cannot be read "
                f"({error}); correct it, or write the column as text"
            ) from None
        for row in rows:
            for name, feature in self._features.items():
                if name in row:
                    row[name] = _named(row[name], feature)
            if "duration" in row:
                row["duration"] = to_seconds(row["duration"])
        return rows

    def _uri_of_path(self, path: str) -> str:
        """The uri of the file that a row without bytes names."""
        uri = path if "://" in path else resolve(path, self._uri)
        if "://" not in uri and not Path(uri).is_file():
            raise UserError(f"no bytes, and no such file: {path!r}; the file lacks its audio")
        return uri

    def _clip(self, row: dict[str, Any], uri: str, seconds: float) -> Clip:
        """Builds the clip of a row.

        Args:
            row: The other columns.
            uri: Address of the audio.
            seconds: Length by the audio's header, or UNKNOWN.
        """
        estimate = number(row, "duration") or seconds
        labels = to_labels(row, self._skipped.columns)
        text_key = next((key for key in TEXT_KEYS if isinstance(row.get(key), str)), "")
        no_labels = {"duration", text_key, *ID_KEYS}
        return Clip(
            clip_id=given_id(labels) or stable_id(uri, 0.0, None),
            uri=uri,
            text=row.get(text_key),
            labels={key: value for key, value in labels.items() if key not in no_labels},
            estimated_duration=estimate or None,
        )

    def _audio_column(self, schema: pa.Schema) -> str:
        names = [
            field.name
            for field in schema
            if _is_audio(field.type, field.name) and not self._is_picture(field.name)
        ]
        if "audio" in names:
            return "audio"
        if len(names) != 1:
            raise UserError(
                f"{self._uri} should have one column of audio, or one named audio (a struct of "
                f"bytes and path, or bytes); found {', '.join(names) or 'none'} among the columns "
                f"{', '.join(schema.names)}"
            )
        return names[0]

    def _is_picture(self, name: str) -> bool:
        feature = self._features.get(name)
        return isinstance(feature, dict) and feature.get("_type") in ("Image", "Video", "Pdf")

    def _audio(self, group: int, *, needs_lengths: bool) -> Sequence[float] | None:
        """The lengths of a row group's audio, UNKNOWN, NO_BYTES or EMPTY.

        Returns:
            None if every row has audio according to the footer, and the lengths are stated or
            would have to be fetched with the whole audio.
        """
        leaf = f"{self._column}.bytes" if self._is_struct else self._column
        meta = self._file.metadata.row_group(group)
        columns = [meta.column(index) for index in range(meta.num_columns)]
        stored = next(each for each in columns if each.path_in_schema == leaf)
        if stored.total_uncompressed_size > MAX_ROW_GROUP:
            raise UserError(
                f"{self._uri} has {stored.total_uncompressed_size / 1e9:.1f} GB of audio in row "
                f"group {group}, expected at most 2.1 GB; write it with smaller row groups "
                "(datasets: to_parquet(batch_size=100))"
            )
        counts = stored.statistics
        has_all = counts is not None and counts.has_null_count and not counts.null_count
        may_skip = has_all and ("://" in self._uri or not needs_lengths)
        if may_skip and self._footer.has_empty_values(group, leaf) is False:
            return None
        return self._known.lengths(self._file, group, self._column)

    def _paths(self, group: int) -> pa.ChunkedArray | None:
        if not self._has_path:
            return None
        column = self._file.read_row_group(group, columns=[f"{self._column}.path"]).column(0)
        return pa.chunked_array(
            [chunk.field("path").cast(pa.string()) for chunk in column.chunks], pa.string()
        )


def _is_audio(kind: pa.DataType, name: str) -> bool:
    if isinstance(kind, pa.StructType):
        return kind.get_field_index("bytes") >= 0
    return name == "audio" and is_bytes(kind)


def _named(value: Any, feature: Any) -> Any:
    """Replaces class numbers by class names, recursively; -1 means no class."""
    if value is None or feature is None:
        return value
    if isinstance(feature, list):
        feature = {"_type": "List", "feature": feature[0]}
    kind = feature.get("_type")
    if kind == "ClassLabel":
        names = feature.get("names") or []
        return names[value] if 0 <= value < len(names) else None
    if kind in ("Sequence", "List", "LargeList"):
        inner = feature.get("feature")
        if isinstance(value, dict):
            return {
                key: [_named(item, inner.get(key)) for item in each] for key, each in value.items()
            }
        return [_named(item, inner) for item in value]
    if kind is None and isinstance(value, dict):
        return {key: _named(each, feature.get(key)) for key, each in value.items()}
    return value
