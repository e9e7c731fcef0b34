"""Reads audio that is stored as bytes in a column of a Parquet file.

Parquet can only be read by whole row groups. The rows of a shard follow each other, so the last row
groups stay in memory and each is read once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.audio_address import ParquetRow
from manifests.errors import AudioError
from manifests.storage import filesystem

ROW_GROUPS_KEPT = 2
"""Number of row groups of audio that a process keeps in memory."""

_lock = threading.Lock()
_kept: OrderedDict[tuple[str, int, str], pa.ChunkedArray] = OrderedDict()


def read_row(file: str, row: ParquetRow) -> bytes:
    """Returns the bytes of a row, from a binary column or from the field `bytes` of a struct.

    Raises:
        AudioError: the file has no such row or column, or the row has no bytes.
        OSError: the disk or the store failed, or does not have the file.
    """
    key = (file, row.row_group, row.column)
    with _lock:
        column = _kept.pop(key, None)
        if column is None:
            column = _read_column(file, row)
        _kept[key] = column
        while len(_kept) > ROW_GROUPS_KEPT:
            _kept.popitem(last=False)
    if row.row >= len(column):
        raise AudioError("unreadable", f"{file}{row}: the row group has {len(column)} rows")
    data = column[row.row].as_py()
    if not data:
        raise AudioError("empty", f"{file}{row} has no bytes")
    return data


def _read_column(file: str, row: ParquetRow) -> pa.ChunkedArray:
    system, path = filesystem(file)
    with pq.ParquetFile(system.open_input_file(path)) as parquet:
        if row.row_group >= parquet.num_row_groups:
            raise AudioError(
                "unreadable", f"{file}{row}: the file has {parquet.num_row_groups} row groups"
            )
        return read_audio(parquet, row.row_group, row.column)


def read_audio(parquet: pq.ParquetFile, row_group: int, column: str) -> pa.ChunkedArray:
    """Returns the bytes of a row group's audio.

    Raises:
        AudioError: the column does not exist or does not contain audio.
    """
    schema = parquet.schema_arrow
    kind = schema.field(column).type if column in schema.names else None
    leaf = f"{column}.bytes" if isinstance(kind, pa.StructType) else column
    table = parquet.read_row_group(row_group, columns=[leaf]) if kind else None
    if table is None or not table.num_columns:
        raise AudioError("unreadable", f"there is no audio column {leaf}")
    values = table.column(0)
    if isinstance(kind, pa.StructType):
        chunks = [chunk.field("bytes") for chunk in values.chunks]
        values = pa.chunked_array(chunks, pa.binary()) if not chunks else pa.chunked_array(chunks)
    if not is_bytes(values.type) and not pa.types.is_null(values.type):
        raise AudioError("unreadable", f"the column {leaf} holds {values.type}, expected bytes")
    return values


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type holds bytes, in any of Arrow's layouts."""
    if isinstance(kind, pa.DictionaryType):
        return is_bytes(kind.value_type)
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in kinds)
