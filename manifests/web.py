"""Reads files on web servers by ranges of their bytes.

Requests use only the standard library; a range is one request. Redirects are followed to http and
https only, and no credentials are sent. The files of a web server cannot be listed.
"""

from __future__ import annotations

import functools
import http.client
import io
import os
import re
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError

import pyarrow as pa
from pyarrow import fs

from manifests.errors import StoreError, UserError

SCHEMES = ("http://", "https://")
TIMEOUT_S = 60.0
"""Seconds without a response after which a web server counts as unreachable."""
MAX_BYTES = 1 << 32
"""Maximum bytes of one request: an hour of 24-channel WAV at 48 kHz."""
GONE = (404, 410)
OUT_OF_RANGE = 416


@dataclass(frozen=True, slots=True)
class Answer:
    """The response of a web server."""

    data: bytes
    """The requested bytes. If the server ignored the range, those that begin the file, or none."""
    size: int | None
    """Size of the whole file in bytes; None if the server does not state it."""
    stamp: str
    """The file's entity tag or modification time; empty if the server states neither."""
    ignores_ranges: bool
    """Whether a range was requested, and the server began to send the whole file."""


def get(url: str, first: int | None = None, last: int | None = None) -> Answer:
    """Fetches a file, or some of its bytes.

    If the server ignores the range, the transfer is ended early.

    Args:
        url: Address as in the manifest.
        first: The first byte; None for the whole file.
        last: The last byte, included in the range; a shorter file gives fewer bytes.

    Raises:
        FileNotFoundError: the server does not have the file.
        ValueError: the file is too large for a clip's audio.
        StoreError: the server did not respond, or rejected the request.
    """
    asked = None if first is None or last is None else (first, last)
    answer, data = _request(url, asked)
    stamp = _stamp(answer.headers)
    if answer.status == OUT_OF_RANGE:
        return Answer(b"", _total(answer.headers), stamp, False)
    if asked and answer.status != http.client.PARTIAL_CONTENT:
        length = answer.headers.get("Content-Length")
        return Answer(data, int(length) if length else None, stamp, True)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{url} is larger than {MAX_BYTES} bytes")
    if answer.length:
        raise StoreError(f"{url} could not be fetched: {answer.length} bytes are missing")
    return Answer(data, _total(answer.headers) if asked else len(data), stamp, False)


def check_ranges(url: str) -> None:
    """Checks that a server gives parts of a file.

    Raises:
        UserError: the server does not have the file, or ignores ranges.
        StoreError: the server did not answer, or refused.
    """
    try:
        if ignores_ranges(url):
            raise UserError(no_ranges(url))
    except FileNotFoundError:
        raise UserError(f"there is no {url}; check the address") from None


def ignores_ranges(url: str) -> bool:
    """Checks whether a server sends only the whole file; one byte is a whole file, too.

    Raises:
        FileNotFoundError: the server does not have the file.
        StoreError: the server did not answer, or refused.
    """
    answer = get(url, 0, 0)
    return answer.ignores_ranges and answer.size != 1


def no_ranges(url: str) -> str:
    """The message about a web server that ignores ranges, where a part of a file is needed."""
    return (
        f"{url}: the web server ignores ranges of bytes, so parts of the file cannot be read; copy "
        "the file to a disk or an object store"
    )


def _request(url: str, asked: tuple[int, int] | None) -> tuple[Any, bytes]:
    quoted = urllib.request.quote(url, safe=":/?&=%~+,;@!$'()*[]")  # type: ignore[attr-defined]
    headers = {"Accept-Encoding": "identity"}
    if asked:
        headers["Range"] = f"bytes={asked[0]}-{asked[1]}"
    request = urllib.request.Request(quoted, headers=headers)
    try:
        with _opener().open(request, timeout=TIMEOUT_S) as answer:
            count = MAX_BYTES + 1
            if asked and answer.status != http.client.PARTIAL_CONTENT:
                count = 0 if asked[0] else asked[1] + 1
            return answer, answer.read(count)
    except HTTPError as error:
        if error.code in GONE:
            raise FileNotFoundError(f"{url} is not there (HTTP {error.code})") from None
        if error.code == OUT_OF_RANGE:
            return error, b""
        raise StoreError(f"{url} could not be fetched: HTTP {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        raise StoreError(f"{url} could not be fetched: {error}") from None


def _total(headers: Any) -> int | None:
    match = re.search(r"/(\d+)\s*$", headers.get("Content-Range") or "")
    return int(match[1]) if match else None


def _stamp(headers: Any) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """An opener for only http and https, not for file:, ftp: and data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


class _WebFile(io.RawIOBase):
    """A file on a web server, each read of which is a request."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._position = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Reads up to `size` bytes; all remaining bytes if it is negative."""
        left = max(0, self._size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        if not count:
            return b""
        answer = get(self._url, self._position, self._position + count - 1)
        if answer.ignores_ranges:
            raise StoreError(no_ranges(self._url))
        self._position += len(answer.data)
        return answer.data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def size(self) -> int:
        """Bytes of the file."""
        return self._size


class WebHandler(fs.FileSystemHandler):
    """A read-only pyarrow file system of web servers; a path is HOST/PATH of one scheme."""

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme

    def get_type_name(self) -> str:
        return self._scheme

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> fs.FileInfo:
        if path.endswith("/"):
            return fs.FileInfo(path, fs.FileType.NotFound)
        try:
            answer = get(f"{self._scheme}://{path}", 0, 0)
        except FileNotFoundError:
            return fs.FileInfo(path, fs.FileType.NotFound)
        return fs.FileInfo(path, fs.FileType.File, size=answer.size)

    def get_file_info_selector(self, selector: Any) -> list[fs.FileInfo]:
        raise UserError(
            f"{self._scheme}://{selector.base_dir} is on a web server, whose folders cannot be "
            "listed; name files, or a pattern such as https://HOST/a-{000..012}.tar"
        )

    def open_input_file(self, path: str) -> pa.NativeFile:
        url = f"{self._scheme}://{path}"
        answer = get(url, 0, 0)
        if answer.ignores_ranges:
            return pa.BufferReader(get(url).data)
        if answer.size is None:
            raise StoreError(f"{url}: the web server does not state the size of the file")
        return pa.PythonFile(_WebFile(url, answer.size), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(get(f"{self._scheme}://{path}").data)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise UserError(f"{self._scheme}:// addresses can be read, not written; name another place")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse
