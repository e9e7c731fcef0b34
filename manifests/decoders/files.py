"""Opening a clip's file, local or in an object store; whose fault an error is.

A file that is not there or is no regular file is the clip's own fault (`AudioError`). A store that
does not answer, refused credentials or a failing disk are not (`StoreError`). Exceptions are lost
in libsndfile, which calls back from C, so `AudioFile` keeps an error for its user to raise.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import BinaryIO, cast

import pyarrow as pa

from manifests.audio_address import ByteRange, ParquetRow, split_address
from manifests.decoders.parquet_rows import read_row
from manifests.decoders.ranged import RangedFile, check_inside, open_ranged
from manifests.decoders.remote import fetch
from manifests.decoders.window import open_window
from manifests.errors import AudioError, StoreError, UserError

CLIPS_FAULT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
"""Errors of a path that names no file, whatever the state of the disk."""


class AudioFile:
    """A file open for reading, without a name: a decoder must judge it by its content.

    `shifted` and `patched` give the same file as a decoder should see it.
    """

    def __init__(self, inner: BinaryIO, size: int, stamp: object = None) -> None:
        self._inner = inner
        self.stamp = stamp
        """Names the file's content for this process; None where nothing does."""
        self._base = 0
        self._is_lent = False
        self._patch = (0, b"")
        self.size = size
        """Bytes from the file's first to its last."""
        self.failure: OSError | AudioError | None = None
        """The error that a read has met."""

    def shifted(self, count: int) -> AudioFile:
        """Makes the file begin `count` bytes later."""
        self._base += count
        self.size -= count
        return self

    def patched(self, position: int, data: bytes) -> AudioFile:
        """Makes some bytes of the file read as `data`; no data takes the patch away."""
        self._patch = (position, data)
        return self

    @property
    def is_remote(self) -> bool:
        """Whether each read may be a request."""
        return isinstance(self._inner, RangedFile)

    def expect(self, count: int) -> None:
        """Says that about so many bytes will be read in order from here on."""
        if isinstance(self._inner, RangedFile):
            self._inner.expect(count)

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes; all that are left where it is negative."""
        start = self.tell()
        try:
            data = self._inner.read(count)
        except (OSError, AudioError) as error:
            self.failure = error
            return b""
        position, patch = self._patch
        overlap = slice(max(position, start) - start, position + len(patch) - start)
        if patch and start < position + len(patch) and position < start + len(data):
            changed = bytearray(data)
            source = patch[max(start - position, 0) :][: len(data) - overlap.start]
            changed[overlap.start : overlap.start + len(source)] = source
            return bytes(changed)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Fills a buffer as far as the file goes; returns the count of bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position, at most to the file's end, whatever a damaged header asks for."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.size}[whence]
        position = min(max(start + offset, 0), self.size)
        return self._inner.seek(position + self._base) - self._base

    def tell(self) -> int:
        """The position."""
        return self._inner.tell() - self._base

    def peek(self, position: int, count: int) -> bytes:
        """Some bytes of the file, leaving it at its start."""
        self.seek(position)
        data = self.read(count)
        self.seek(0)
        return data

    def check(self, uri: str) -> None:
        """Raises what a read has met.

        Raises:
            StoreError: a read failed.
            AudioError: the file is not what it was when it was opened.
        """
        if isinstance(self.failure, AudioError):
            raise self.failure
        if self.failure is not None:
            raise StoreError(f"{uri} could not be read: {self.failure}") from self.failure

    def close(self, *, is_lent: bool = False) -> None:
        """Closes the file; one that was lent is closed by whom it was lent to."""
        if is_lent == self._is_lent:
            self._inner.close()

    def lend(self) -> None:
        """Lets the file stay open when its user is through with it."""
        self._is_lent = True

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_audio(uri: str, *, whole: bool = True, is_probe: bool = False) -> AudioFile:
    """Opens a clip's file, or the part of a file that its uri names (`manifests.audio_address`).

    Args:
        uri: Path or address, perhaps with a part.
        whole: Fetch all of what lies in a store or on a web server in one request, instead of only
            what is read.
        is_probe: Fetch little of a remote file, and keep none of it.

    Raises:
        AudioError: there is no such file, or it is not a regular one.
        StoreError: the disk, the store, the network or the credentials failed.
    """
    try:
        file, part = split_address(uri)
        if isinstance(part, ParquetRow):
            data = read_row(file, part)
        elif "://" not in file:
            return _open_local(file, part)
        elif not whole:
            ranged = open_ranged(file, part, is_probe=is_probe)
            return AudioFile(cast(BinaryIO, ranged), ranged.size, ranged.stamp)
        else:
            data = fetch(file, part)
        return AudioFile(io.BytesIO(data), len(data))
    except StoreError:
        raise
    except (UserError, ValueError) as error:
        raise AudioError("unreadable", f"{uri} cannot be opened: {error}") from None
    except IsADirectoryError:
        raise AudioError("unreadable", f"{uri} is a folder") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in CLIPS_FAULT:
            raise AudioError("missing", f"{uri} is not there") from None
        if isinstance(error, PermissionError) and "://" not in uri:
            raise AudioError("unreadable", f"{uri} may not be read") from None
        raise StoreError(f"{uri} could not be opened: {error}") from error
    except pa.ArrowException as error:
        raise StoreError(f"{uri} could not be opened: {error}") from error


def _open_local(uri: str, part: ByteRange | None) -> AudioFile:
    path = os.path.expanduser(uri)
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(path)
    if not stat.S_ISREG(mode):
        kind = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}.get(
            stat.S_IFMT(mode), "a device"
        )
        raise AudioError("unreadable", f"{uri} is {kind}, expected a regular file")
    buffering = -1 if part is None else 0
    inner = open(path, "rb", buffering)  # noqa: SIM115  (AudioFile closes it)
    status = os.fstat(inner.fileno())
    size, stamp = status.st_size, (path, part, status.st_size, status.st_mtime_ns)
    if part is None:
        return AudioFile(inner, size, stamp)
    try:
        check_inside(uri, part, size)
    except AudioError:
        inner.close()
        raise
    return AudioFile(open_window(inner, part), part.size, stamp)
