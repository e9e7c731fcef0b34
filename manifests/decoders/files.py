"""Opens a clip's file, local or in an object store, and attributes errors to the clip or the store.

A missing or irregular file is a fault of the clip (`AudioError`). A store that does not respond,
rejected credentials or a failing disk are not (`StoreError`). libsndfile calls back from C and
loses exceptions, so `AudioFile` stores an error until its user raises it.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from typing import BinaryIO, cast

import pyarrow as pa

from manifests.audio_address import (
    TAR_BLOCK,
    ByteRange,
    ParquetRow,
    hint_at_spelling,
    split_address,
)
from manifests.decoders.parquet_rows import read_row
from manifests.decoders.ranged import RangedFile, check_inside, open_ranged
from manifests.decoders.remote import fetch
from manifests.decoders.window import open_window
from manifests.errors import AudioError, StoreError, UserError

SMALL_RANGE = 1 << 20
"""Ranges of local files up to this size are read at once."""
LARGEST_IN_HEADER = 1 << 33
"""Members from this size on can state it in another header."""
CLIPS_FAULT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
"""Errors of a path that does not lead to a file, whatever the state of the disk."""


class AudioFile:
    """A file open for reading.

    It has no name, so that decoders detect its format from the content. `shifted` and `patched`
    change the bytes that a decoder sees.
    """

    def __init__(self, inner: BinaryIO, size: int, stamp: object = None) -> None:
        self._inner = inner
        self.stamp = stamp
        """Identifies the file's content within this process; None if that is impossible."""
        self._base = 0
        self._is_lent = False
        self._patch = (0, b"")
        self.size = size
        """Size of the file in bytes."""
        self.failure: OSError | AudioError | None = None
        """The error of a read, if one failed."""

    def shifted(self, count: int) -> AudioFile:
        """Makes the file begin `count` bytes later."""
        self._base += count
        self.size -= count
        return self

    def patched(self, position: int, data: bytes) -> AudioFile:
        """Replaces some bytes that are read by `data`; empty data removes the patch."""
        self._patch = (position, data)
        return self

    @property
    def is_remote(self) -> bool:
        """Whether each read may be a request."""
        return isinstance(self._inner, RangedFile)

    def expect(self, count: int) -> None:
        """Announces how many bytes will be read from the current position, for prefetching."""
        if isinstance(self._inner, RangedFile):
            self._inner.expect(count)

    def read(self, count: int = -1) -> bytes:
        """Reads up to `count` bytes; all remaining bytes if it is negative."""
        start = self.tell() if self._patch[1] else 0
        try:
            data = self._inner.read(count)
        except (OSError, AudioError) as error:
            self.failure = error
            return b""
        position, patch = self._patch
        if not patch:
            return data
        overlap = slice(max(position, start) - start, position + len(patch) - start)
        if start < position + len(patch) and position < start + len(data):
            changed = bytearray(data)
            source = patch[max(start - position, 0) :][: len(data) - overlap.start]
            changed[overlap.start : overlap.start + len(source)] = source
            return bytes(changed)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Reads into a buffer, and returns the number of bytes."""
        position, patch = self._patch
        if not patch or self.tell() >= position + len(patch):
            try:
                return self._inner.readinto(buffer)  # pyright: ignore[reportAttributeAccessIssue]
            except (OSError, AudioError) as error:
                self.failure = error
                return 0
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position, at most to the file's end, whatever a damaged header asks for."""
        if whence != os.SEEK_SET:
            offset += self.tell() if whence == os.SEEK_CUR else self.size
        position = min(max(offset, 0), self.size)
        return self._inner.seek(position + self._base) - self._base

    def tell(self) -> int:
        """The position."""
        return self._inner.tell() - self._base

    def peek(self, position: int, count: int) -> bytes:
        """Returns some bytes of the file, and goes back to its start."""
        self.seek(position)
        data = self.read(count)
        self.seek(0)
        return data

    def check(self, uri: str) -> None:
        """Raises the error of a read, if one failed.

        Raises:
            StoreError: a read failed.
            AudioError: the file changed since it was opened.
        """
        if isinstance(self.failure, AudioError):
            raise self.failure
        if self.failure is not None:
            raise StoreError(f"{uri} could not be read: {self.failure}") from self.failure

    def close(self, *, is_lent: bool = False) -> None:
        """Closes the file; a lent file is closed by its borrower."""
        if is_lent == self._is_lent:
            self._inner.close()

    def lend(self) -> None:
        """Keeps the file open after its `with` block, for a borrower that closes it."""
        self._is_lent = True

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_audio(uri: str, *, whole: bool = True, is_probe: bool = False) -> AudioFile:
    """Opens a clip's file, or the part of a file that its uri names (`manifests.audio_address`).

    Args:
        uri: Path or address, perhaps with a part.
        whole: Fetch a whole remote file in one request, instead of only the bytes that are read.
        is_probe: Fetch only a little of a remote file, and keep nothing.

    Raises:
        AudioError: the file does not exist, or is not a regular file, or is a tar in which the part
            is not a member any more.
        StoreError: the disk, the store, the network or the credentials failed.
    """
    try:
        file, part = split_address(uri)
        if not isinstance(part, ByteRange) or not part.is_member_of(file):
            return _open(file, part, whole=whole, is_probe=is_probe)
        longer = ByteRange(part.first - TAR_BLOCK, part.last)
        opened = _open(file, longer, whole=whole, is_probe=is_probe)
        _check_member(opened, uri, part.size)
        return opened.shifted(TAR_BLOCK)
    except StoreError:
        raise
    except (UserError, ValueError) as error:
        raise AudioError("unreadable", f"{uri} cannot be opened: {error}") from None
    except IsADirectoryError:
        raise AudioError("unreadable", f"{uri} is a folder") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in CLIPS_FAULT:
            hint = "" if "://" in uri else hint_at_spelling(split_address(uri)[0])
            raise AudioError("missing", f"{uri} is not there{hint}") from None
        if isinstance(error, PermissionError) and "://" not in uri:
            raise AudioError("unreadable", f"{uri} may not be read") from None
        raise StoreError(f"{uri} could not be opened: {error}") from error
    except pa.ArrowException as error:
        raise StoreError(f"{uri} could not be opened: {error}") from error


def _open(
    file: str, part: ByteRange | ParquetRow | None, *, whole: bool, is_probe: bool
) -> AudioFile:
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


def _check_member(opened: AudioFile, uri: str, size: int) -> None:
    """Checks that a member of a tar, of which a corpus knows position and size, is still there.

    Args:
        opened: The file, from the member's header on.
        uri: The clip's.
        size: The member's size in bytes.

    Raises:
        AudioError: the bytes are not that member, perhaps those of another clip.
        StoreError: the header could not be read.
    """
    header = opened.peek(0, TAR_BLOCK)
    try:
        opened.check(uri)
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if (member.isreg() and member.size == size) or size >= LARGEST_IN_HEADER:
            return
    except tarfile.HeaderError:
        pass
    except (AudioError, StoreError):
        opened.close()
        raise
    opened.close()
    raise AudioError(
        "moved",
        f"{uri} is not a member of the tar, which was written again after the corpus was built; "
        "build the corpus again, then the cache, which has a copy of it",
    )


def _open_local(uri: str, part: ByteRange | None) -> AudioFile:
    path = os.path.expanduser(uri)
    status = os.stat(path)
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(path)
    if not stat.S_ISREG(mode):
        kind = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}.get(
            stat.S_IFMT(mode), "a device"
        )
        raise AudioError("unreadable", f"{uri} is {kind}, expected a regular file")
    if part is not None and part.size <= SMALL_RANGE:
        check_inside(uri, part, status.st_size)
        stamp = (path, part, status.st_size, status.st_mtime_ns)
        return AudioFile(io.BytesIO(_read_range(path, part)), part.size, stamp)
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


def _read_range(path: str, part: ByteRange) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, part.size, part.first)
    finally:
        os.close(descriptor)
