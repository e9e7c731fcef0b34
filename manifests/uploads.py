"""Uploads to object stores that are whole or not there at all, also if the program is interrupted.

pyarrow has no way to abandon an upload: closing its stream completes the object with what was
written so far, and so does dropping the stream. A signal that arrives while the upload is being
started would therefore leave an empty object under the final name.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import IO

import pyarrow as pa
from pyarrow import fs

from manifests.spool import IN_MEMORY, Spool

PIECE = 1 << 23
"""Bytes that are copied at a time."""


def upload(filesystem: fs.FileSystem, path: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes an object.

    Python delivers signals to the main thread only. There, the upload runs in a thread of its own;
    an interruption is raised after the upload has ended.

    Args:
        filesystem: The object store.
        path: Path of the object.
        pieces: Its content.

    Raises:
        OSError: the store does not take it, or the pieces cannot be read. The object is then not
            there, or unchanged if the store took nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        _upload(filesystem, path, pieces)
        return
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _upload(filesystem, path, pieces)
        except BaseException as error:  # noqa: BLE001  (it is raised in the calling thread)
            errors.append(error)

    thread = threading.Thread(target=run, name="upload")
    thread.start()
    try:
        thread.join()
    finally:
        thread.join()
    if errors:
        raise errors[0]


class SpooledUpload(Spool):
    """A file that is prepared in memory or in `TMPDIR`, and uploaded when it is published.

    Args:
        filesystem: The object store.
        folder: Path of the folder for it.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str) -> None:
        super().__init__(IN_MEMORY)
        self._filesystem = filesystem
        self._folder = folder

    def __enter__(self) -> SpooledUpload:
        return self

    def publish(self, name: str) -> None:
        """Uploads the file as `name`.

        Raises:
            OSError: see `upload`.
        """
        upload(self._filesystem, f"{self._folder}/{name}", pieces(self))


def pieces(data: bytes | pa.Buffer | IO[bytes]) -> Iterator[bytes | memoryview]:
    """Yields content for writing; an open file from its start, a piece at a time."""
    if isinstance(data, bytes):
        yield data
    elif isinstance(data, pa.Buffer):
        yield memoryview(data)  # pyright: ignore[reportArgumentType]
    else:
        data.seek(0)
        while piece := data.read(PIECE):
            yield piece


def _upload(filesystem: fs.FileSystem, path: str, pieces: Iterable[bytes | memoryview]) -> None:
    stream = filesystem.open_output_stream(path)
    try:
        for piece in pieces:
            stream.write(piece)
    except BaseException:
        # A stream that can be closed has completed a part of the object. One that cannot has
        # changed nothing.
        with contextlib.suppress(OSError):
            stream.close()
            filesystem.delete_file(path)
        raise
    stream.close()
