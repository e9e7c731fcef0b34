"""Selects the columns of a Parquet file that can be labels, and reads their times.

Columns of bytes (pictures, further audio, embeddings) are not read at all: next to a transcript
they are most of a file.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.decoders.parquet_rows import is_bytes


def columns_of_labels(file: pq.ParquetFile, audio: str) -> tuple[list[str], list[str]]:
    """Returns the columns to read as labels, as paths in the file's schema, and those left out.

    Args:
        file: The file.
        audio: Name of the audio column.
    """
    leaves = [
        (each.name, *leaf) for each in file.schema_arrow for leaf in _leaves(each.name, each.type)
    ]
    paths = [file.schema.column(number).path for number in range(len(file.schema))]
    if len(leaves) != len(paths):  # Arrow has a type that this module does not know.
        return [name for name in file.schema_arrow.names if name != audio], []
    others = [
        (path, name, is_label)
        for path, (column, name, is_label) in zip(paths, leaves, strict=True)
        if column != audio
    ]
    left_out = [name for _, name, is_label in others if not is_label]
    return [path for path, _, is_label in others if is_label], list(dict.fromkeys(left_out))


def _leaves(name: str, kind: pa.DataType) -> Iterator[tuple[str, bool]]:
    """Yields the name of every column that a field is stored as, and whether it can be a label.

    A struct with bytes, such as a picture with its path, is left out as a whole.
    """
    if isinstance(kind, pa.BaseExtensionType):
        is_text = kind.extension_name in ("arrow.uuid", "arrow.json")
        yield from [(name, True)] if is_text else _leaves(name, kind.storage_type)
    elif isinstance(kind, pa.StructType):
        place = kind.get_field_index("bytes")
        is_file = place >= 0 and is_bytes(kind.field(place).type)
        for field in kind:
            for inner, is_label in _leaves(f"{name}.{field.name}", field.type):
                yield (name, False) if is_file else (inner, is_label)
    elif isinstance(kind, pa.MapType):
        yield from _leaves(name, kind.key_type)
        yield from _leaves(name, kind.item_type)
    elif hasattr(kind, "value_type"):  # a dictionary, or a list of any layout
        yield from _leaves(name, kind.value_type)
    else:
        yield name, not is_bytes(kind) and not pa.types.is_fixed_size_binary(kind)


def in_microseconds(table: pa.Table) -> pa.Table:
    """Returns a table whose times have microseconds, the unit of Python's own types."""
    fields = [pa.field(each.name, _in_microseconds(each.type)) for each in table.schema]
    return table.cast(pa.schema(fields), safe=False)


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if isinstance(kind, pa.StructType):
        return pa.struct([(each.name, _in_microseconds(each.type)) for each in kind])
    if isinstance(kind, pa.MapType):
        return pa.map_(_in_microseconds(kind.key_type), _in_microseconds(kind.item_type))
    if pa.types.is_list(kind):
        return pa.list_(_in_microseconds(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_in_microseconds(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_in_microseconds(kind.value_type), kind.list_size)
    if isinstance(kind, pa.DictionaryType):
        return _in_microseconds(kind.value_type)
    return kind
