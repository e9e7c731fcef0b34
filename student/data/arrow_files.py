"""Memory-mapped Arrow files and arrays on a local disk: one copy for all processes.

Ranks and their workers map the same file, so its pages are in memory once. Python objects, which
reference counting would copy in forked workers, are created only for the rows in use. A file is
closed after mapping, so it needs no file handle.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa


def take_space(path: Path) -> None:
    """Allocates the disk space of a mapped file before it is written.

    Writing to a mapped file on a full disk kills the process (SIGBUS) without an error message.

    Raises:
        OSError: the disk does not have enough space.
    """
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


class ArrowRows:
    """The rows of an Arrow IPC file by number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with pa.memory_map(str(path)) as source:
            content = source.read_buffer()
        reader = pa.ipc.open_file(content)
        self.metadata: dict[bytes, bytes] = reader.schema.metadata or {}
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._starts: list[int] = []
        self._length = 0
        for batch in self._batches:
            self._starts.append(self._length)
            self._length += len(batch)

    def __reduce__(self) -> tuple[type[ArrowRows], tuple[Path]]:
        return ArrowRows, (self._path,)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not 0 <= row < self._length:
            raise IndexError(f"{self._path} has {self._length} rows, asked for row {row}")
        ordinal = bisect_right(self._starts, row) - 1
        return self._batches[ordinal].slice(row - self._starts[ordinal], 1).to_pylist()[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._batches:
            yield from batch.to_pylist()


class ArrowWriter:
    """Writes tables to an Arrow IPC file in record batches of some size.

    Args:
        path: The file.
        schema: Schema of all tables.
        rows: Rows per record batch. Large batches are looked up fast, small ones need little
            memory.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, rows: int = 65536) -> None:
        self._schema = schema
        self._rows = rows
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)

    def __enter__(self) -> ArrowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()
        self._sink.close()

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        self._waiting.append(table)
        self._num_waiting += len(table)
        if self._num_waiting >= self._rows:
            self._flush()

    def _flush(self) -> None:
        if self._num_waiting:
            whole = pa.concat_tables(self._waiting).combine_chunks()
            for batch in whole.to_batches():
                self._writer.write_batch(batch)
        self._waiting, self._num_waiting = [], 0
