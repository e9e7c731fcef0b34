"""The data that a corpus's builds have read from its sources, kept so that it is read once.

    CORPUS/source_index/tars-3f2a9c10.parquet       the members of tars, one row group for each tar
    CORPUS/source_index/numbers-3f2a9c10.parquet    lengths of audio files, places of cuts

Each entry belongs to one state of one file: its address, its size and its entity tag or time of
change. A file that has changed is read again. Entries are written while a build goes on, so that
the build that follows a killed one reads the rest alone. Only builds read this folder, and it can
be deleted. In memory: 24 bytes for each file whose length is known.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.storage import Folder

FOLDER = "source_index"
"""Name of the index within a corpus."""
SHARE = 0.02
"""Share of a build's time that a kill loses at most, and that is spent on writing entries."""
MOST_FILES = 8
"""Files of one kind that are left as they are; where there are more, they become one when a build
has ended."""
TARS = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("identity", pa.string()),
        pa.field("contents_of", pa.string()),
        pa.field("names", pa.list_(pa.binary())),
        pa.field("firsts", pa.list_(pa.int64())),
        pa.field("sizes", pa.list_(pa.int64())),
        pa.field("contents", pa.list_(pa.binary())),
    ]
)
NUMBERS = pa.schema([pa.field("key", pa.uint64()), pa.field("values", pa.list_(pa.float64()))])


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar."""

    name: str
    first: int
    """Its first byte, from the tar's start."""
    size: int
    content: bytes | None
    """The content, where that was asked for."""


class TarKey(NamedTuple):
    """The state of a tar, and what was read of it."""

    uri: str
    identity: str
    contents_of: str
    """Pattern of the members whose content was read; empty for none."""


class SourceIndex:
    """The index of a corpus. Its methods may be called from many threads.

    Args:
        corpus: The corpus's folder; None for an index that is not kept.
    """

    def __init__(self, corpus: Folder | None = None) -> None:
        self._folder = corpus.child(FOLDER) if corpus else None
        self._lock = threading.RLock()
        self._new_tars: dict[TarKey, list[Member]] = {}
        self._new_numbers: dict[int, Sequence[float]] = {}
        self._used_tars: set[TarKey] = set()
        self._identities: dict[str, str] = {}
        self._start = self._written_at = time.monotonic()
        self._write_s = 0.0
        self._timer: threading.Timer | None = None
        names = self._folder.names() if self._folder else []
        self._files = {
            kind: [name for name in names if name.startswith(f"{kind}-")]
            for kind in ("tars", "numbers")
        }
        self._tars = self._stored_tars()
        self._numbers = _Numbers()
        for name in self._files["numbers"]:
            table = self._read(name)
            if table is not None:
                self._numbers.add(table)

    def __enter__(self) -> SourceIndex:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
        self.write()
        if kind is None:
            self._merge()

    def note_identity(self, uri: str, identity: str) -> None:
        """Keeps a file's identity that a listing told, until it is asked for."""
        with self._lock:
            self._identities[uri] = identity

    def take_identity(self, uri: str) -> str | None:
        """The identity that a listing told; it is told once."""
        with self._lock:
            return self._identities.pop(uri, None)

    def tar(self, key: TarKey) -> list[Member] | None:
        """The members of a tar; None where it was not read in this state."""
        with self._lock:
            self._used_tars.add(key)
            place = self._tars.get(key)
            if place is None:
                return self._new_tars.get(key)
        table = self._read(place[0], place[1])
        if table is None:
            return None
        columns = (table[name][0].as_py() for name in ("names", "firsts", "sizes", "contents"))
        return [
            Member(name.decode(errors="surrogateescape"), *rest)
            for name, *rest in zip(*columns, strict=True)
        ]

    def add_tar(self, key: TarKey, members: list[Member]) -> None:
        """Keeps the members of a tar."""
        with self._lock:
            self._new_tars[key] = members
            self._write_if_due()

    def numbers(self, key: int) -> Sequence[float] | None:
        """The numbers behind a key of `number_key`; None where there is no such entry."""
        with self._lock:
            new = self._new_numbers.get(key)
            return self._numbers.get(key) if new is None else new

    def add_numbers(self, key: int, values: Sequence[float]) -> None:
        """Keeps numbers behind a key of `number_key`."""
        with self._lock:
            self._new_numbers[key] = values
            self._write_if_due()

    def _write_if_due(self) -> None:
        """Writes now, or lets a timer write when it is time to."""
        if self._timer is not None:
            return
        now = time.monotonic()
        pause = max(self._write_s / SHARE, (now - self._start) * SHARE)
        left = pause - (now - self._written_at)
        if left <= 0:
            self.write()
            return
        self._timer = threading.Timer(left, self.write)
        self._timer.daemon = True
        self._timer.start()

    def write(self) -> None:
        """Writes the entries that are new."""
        with self._lock:
            self._timer = None
            start = time.monotonic()
            if self._new_tars and self._folder:
                rows = [_tar_row(key, members) for key, members in self._new_tars.items()]
                name = self._write("tars", TARS, rows)
                self._tars |= {key: (name, row) for row, key in enumerate(self._new_tars)}
                self._new_tars = {}
            if self._new_numbers:
                table = pa.table(
                    [list(self._new_numbers), list(map(list, self._new_numbers.values()))],
                    schema=NUMBERS,
                )
                if self._folder:
                    self._write("numbers", NUMBERS, [table])
                self._numbers.add(table)
                self._new_numbers = {}
            self._written_at = time.monotonic()
            self._write_s = self._written_at - start

    def _write(self, kind: str, schema: pa.Schema, row_groups: Sequence[pa.Table]) -> str:
        assert self._folder is not None
        name = f"{kind}-{secrets.token_hex(6)}.parquet"
        with tempfile.TemporaryFile() as file:
            with _writer(file, schema) as writer:
                for table in row_groups:
                    writer.write_table(table)
            self._folder.write_atomic(name, file)
        self._files[kind].append(name)
        return name

    def _stored_tars(self) -> dict[TarKey, tuple[str, int]]:
        """Returns file and row group by key."""
        places: dict[TarKey, tuple[str, int]] = {}
        for name in self._files["tars"]:
            table = self._read(name, columns=list(TarKey._fields))
            for row, each in enumerate(table.to_pylist() if table is not None else ()):
                places[TarKey(**each)] = (name, row)
        return places

    def _read(
        self, name: str, row_group: int | None = None, columns: list[str] | None = None
    ) -> pa.Table | None:
        """A file's table; None where it is damaged or gone, so that its entries are read anew."""
        assert self._folder is not None
        try:
            with pq.ParquetFile(self._folder.open(name), page_checksum_verification=True) as file:
                if row_group is None:
                    return file.read(columns)
                return file.read_row_group(row_group, columns)
        except (OSError, pa.ArrowException):
            return None

    def _merge(self) -> None:
        """Makes one file of many, without what was replaced."""
        if self._folder is None:
            return
        if len(old := self._files["numbers"]) > MOST_FILES:
            self._files["numbers"] = []
            self._write("numbers", NUMBERS, [self._numbers.table()])
            self._delete(old)
        if len(old := self._files["tars"]) > MOST_FILES:
            self._files["tars"] = []
            used = {(key.uri, key.contents_of) for key in self._used_tars}
            kept = [
                self._read(*place)
                for key, place in self._tars.items()
                if key in self._used_tars or (key.uri, key.contents_of) not in used
            ]
            self._write("tars", TARS, [table for table in kept if table is not None])
            self._delete(old)

    def _delete(self, names: list[str]) -> None:
        assert self._folder is not None
        for name in names:
            self._folder.delete(name)


class _Numbers:
    """Lists of numbers by 64-bit keys, in arrays."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)
        self._starts = np.empty(0, np.uint32)
        self._counts = np.empty(0, np.uint32)
        self._values = np.empty(0, np.float64)

    def get(self, key: int) -> list[float] | None:
        row = int(np.searchsorted(self._keys, np.uint64(key)))
        if row == len(self._keys) or int(self._keys[row]) != key:
            return None
        start = int(self._starts[row])
        return self._values[start : start + int(self._counts[row])].tolist()

    def add(self, table: pa.Table) -> None:
        lists = table["values"].combine_chunks()
        counts = np.asarray(lists.value_lengths(), np.uint32)
        starts = len(self._values) + counts.cumsum(dtype=np.uint32) - counts
        keys = np.concatenate([self._keys, np.asarray(table["key"], np.uint64)])
        order = keys.argsort(kind="stable")
        # Of entries with one key the first stays; two builds at once may have written both.
        order = order[np.diff(keys[order], prepend=~keys[order][:1]) != 0]
        self._keys = keys[order]
        self._starts = np.concatenate([self._starts, starts])[order].astype(np.uint32)
        self._counts = np.concatenate([self._counts, counts])[order]
        self._values = np.concatenate([self._values, np.asarray(lists.flatten(), np.float64)])

    def table(self) -> pa.Table:
        ends = (self._starts + self._counts).tolist()
        values = [
            self._values[start:end] for start, end in zip(self._starts.tolist(), ends, strict=True)
        ]
        return pa.table([self._keys, pa.array(values, NUMBERS.field("values").type)], NUMBERS)


def number_key(what: str, uri: str, identity: str, *settings: float | str | None) -> int:
    """A 64-bit key.

    Args:
        what: Kind of the numbers.
        uri: Address of the audio.
        identity: The state of its file.
        settings: Anything else that the numbers depend on.
    """
    text = json.dumps([what, uri, identity, *settings])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _tar_row(key: TarKey, members: list[Member]) -> pa.Table:
    names, firsts, sizes, contents = (
        zip(*map(astuple, members), strict=True) if members else [()] * 4
    )
    encoded = [name.encode(errors="surrogateescape") for name in names]
    columns = [*key, encoded, list(firsts), list(sizes), list(contents)]
    return pa.table([[column] for column in columns], schema=TARS)


def _writer(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True)
