"""Reads from a Parquet file's footer whether a column of bytes has empty values.

pyarrow shows a column's smallest value only if the largest one is stored, too, and audio is too
long for that. An empty value, which is the smallest of all, is stored anyway. The footer is a
struct in Thrift's compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import pyarrow as pa

MAGIC = b"PAR1"
OMITS_LONG_VALUES = "parquet-cpp-arrow"
"""Writer that stores the smallest value if it has at most 4,096 bytes, and otherwise none."""

# Numbers of the fields.
ROW_GROUPS, CREATED_BY = 4, 6
COLUMNS = 1
META_DATA = 3
PATH_IN_SCHEMA, STATISTICS = 3, 12
NULL_COUNT, MIN_VALUE = 3, 6


class Footer:
    """The footer of a Parquet file.

    Args:
        file: The file, open for reading at any position.
    """

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file

    @functools.cached_property
    def _fields(self) -> dict[int, Any]:
        size = self._file.size()
        tail = self._file.read_at(8, size - 8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != MAGIC or length > size - 8:
            return {}
        return _Compact(self._file.read_at(length, size - 8 - length)).struct()

    def has_empty_values(self, row_group: int, path: str) -> bool | None:
        """Whether a column of bytes has empty values in a row group; None if it is unknown.

        Args:
            row_group: Number of the row group.
            path: The column's path in the schema, with dots.
        """
        if not self._fields:
            return None
        for column in self._fields[ROW_GROUPS][row_group][COLUMNS]:
            stored = column.get(META_DATA, {})
            if b".".join(stored.get(PATH_IN_SCHEMA, ())).decode() != path:
                continue
            statistics = stored.get(STATISTICS, {})
            if MIN_VALUE in statistics:
                return not statistics[MIN_VALUE]
            written_by = self._fields.get(CREATED_BY, b"").decode(errors="replace")
            is_certain = NULL_COUNT in statistics and written_by.startswith(OMITS_LONG_VALUES)
            return False if is_certain else None
        return None


class _Compact:
    """Data in Thrift's compact protocol."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def struct(self) -> dict[int, Any]:
        """Reads a struct: number of the field -> value."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):  # a truth value in a list
            return self._byte() == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            return struct.unpack("<d", self._bytes(8))[0]
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 != 15 else self._varint()
            return [self._value(head & 15) for _ in range(count)]
        if kind == 12:
            return self.struct()
        raise pa.ArrowInvalid(f"the footer has a field of the unknown type {kind}")

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        data = self._data[self._position : self._position + count]
        if len(data) != count:
            raise pa.ArrowInvalid("the footer ends early")
        self._position += count
        return data

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
