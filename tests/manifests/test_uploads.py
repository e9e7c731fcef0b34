"""Tests that interrupted and failed uploads leave no partial objects in a store."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from manifests.storage import Folder


class Store:
    """An object store whose streams complete an upload when closed or dropped, as in pyarrow."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.interrupts = False
        """Whether a signal arrives while an upload is being started."""
        self.refuses = False
        """Whether uploads fail when they are written."""

    def open_output_stream(self, path: str) -> Stream:
        stream = Stream(self, path)
        if self.interrupts:
            os.kill(os.getpid(), signal.SIGINT)
        return stream

    def delete_file(self, path: str) -> None:
        del self.objects[path]


class Stream:
    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path, self.data, self.is_open = store, path, b"", True

    def write(self, piece: Any) -> None:
        if self.store.refuses:
            raise OSError("503 SlowDown")
        self.data += bytes(piece)

    def close(self) -> None:
        if self.store.refuses:
            self.is_open = False
            raise OSError("503 SlowDown")
        if self.is_open:
            self.store.objects[self.path] = self.data
            self.is_open = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self.is_open:
            self.close()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def folder(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    folder = Folder(tmp_path)
    monkeypatch.setattr(folder, "_fs", store)
    monkeypatch.setattr(folder, "is_local", False)
    return folder


@pytest.fixture
def interrupt_handler() -> Iterator[None]:
    """Python's handler of SIGINT, which is not installed in a background process of a shell."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interrupt_handler")
def test_signal_during_an_upload_leaves_a_complete_object(store: Store, folder: Folder):
    store.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        folder.write_atomic("audio.flac", b"all of it")
    assert store.objects == {folder.path("audio.flac"): b"all of it"}


def test_unreadable_source_leaves_no_object(store: Store, folder: Folder):
    class Broken:
        reads = 0

        def seek(self, place: int) -> None: ...

        def read(self, size: int) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise OSError("Input/output error")
            return b"the first part"

    with pytest.raises(OSError, match="Input/output error"):
        folder.write_atomic("data.parquet", Broken())  # type: ignore[arg-type]
    assert store.objects == {}


def test_failed_upload_keeps_the_earlier_object(store: Store, folder: Folder):
    store.objects[folder.path("corpus.json")] = b"before"
    store.refuses = True
    with pytest.raises(OSError, match="SlowDown"):
        folder.write_atomic("corpus.json", b"after")
    assert store.objects == {folder.path("corpus.json"): b"before"}


def test_pyarrow_completes_a_dropped_upload(s3: fs.FileSystem):
    """If this fails, pyarrow can abandon uploads, and `Folder` needs no workaround."""
    stream = s3.open_output_stream("data/dropped")
    del stream
    assert s3.get_file_info("data/dropped").type == fs.FileType.File
    Folder("s3://data/uploads").write_atomic("whole", b"all of it")
    assert Folder("s3://data/uploads").read_bytes("whole") == b"all of it"
