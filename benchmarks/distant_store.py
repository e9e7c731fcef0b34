"""Simulates an object store with a latency of 40 ms on a local folder, for benchmarks.

Every request waits: a listing per 1,000 entries, a HEAD for each look at a file and for opening it,
a GET for each read. Requests of several threads wait in parallel, as over a network.
"""

from __future__ import annotations

import io
import os
import threading
import time
from typing import Any

import pyarrow as pa
from pyarrow import fs

from manifests import storage

LATENCY_S = 0.040
PAGE = 1000
"""Entries that one listing request returns, as in S3."""

_lock = threading.Lock()
requests = 0
waited_s = 0.0
"""Seconds in which at least one request was waiting."""
_waits_until = 0.0


def _wait(count: int = 1) -> None:
    global requests, waited_s, _waits_until
    with _lock:
        requests += count
        start = time.perf_counter()
        until = start + LATENCY_S * count
        waited_s += max(0.0, until - max(start, _waits_until))
        _waits_until = max(until, _waits_until)
    time.sleep(LATENCY_S * count)


class _DistantFile(io.RawIOBase):
    """A file for which every read is a request."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: SIM115

    def read(self, size: int = -1) -> bytes:
        """Reads after a request's wait."""
        _wait()
        return self._file.read(size)

    def readable(self) -> bool:
        """Returns True, because files are opened for reading."""
        return True

    def seekable(self) -> bool:
        """Returns True, because ranged reads are supported."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves or returns the position, which needs no request."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Moves or returns the position, which needs no request."""
        return self._file.tell()

    def close(self) -> None:
        """Closes the file below."""
        self._file.close()
        super().close()


class _Handler(fs.FileSystemHandler):
    """A file system handler that reads a local folder with the latency of a distant store.

    Keys are paths without their first slash.
    """

    def __init__(self) -> None:
        self._local = fs.LocalFileSystem()

    def get_type_name(self) -> str:
        return "distant"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        _wait(len(paths))
        return [self._renamed(self._local.get_file_info(f"/{path}"), path) for path in paths]

    def get_file_info_selector(self, selector: Any) -> list[fs.FileInfo]:
        local = fs.FileSelector(f"/{selector.base_dir}", allow_not_found=True)
        infos = self._local.get_file_info(local)
        _wait(max(1, -(-len(infos) // PAGE)))
        return [self._renamed(info, info.path.lstrip("/")) for info in infos]

    def _renamed(self, info: fs.FileInfo, path: str) -> fs.FileInfo:
        return fs.FileInfo(path, info.type, size=info.size, mtime_ns=info.mtime_ns)

    def open_input_file(self, path: str) -> pa.NativeFile:
        _wait()
        return pa.PythonFile(_DistantFile(f"/{path}"), mode="r")

    open_input_stream = open_input_file

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("this store is read only")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse


def install() -> None:
    """Redirects every `s3://` address to the local path of its key, with a latency of 40 ms."""
    distant = fs.PyFileSystem(_Handler())
    storage._connect = lambda uri: (  # pyright: ignore[reportAttributeAccessIssue]
        distant,
        uri.partition("://")[2],
    )
