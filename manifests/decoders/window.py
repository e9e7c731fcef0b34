"""Presents a range of a local file's bytes as a file, without copying."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, cast

from manifests.audio_address import ByteRange


class _Window(io.RawIOBase):
    def __init__(self, inner: BinaryIO, part: ByteRange) -> None:
        self._inner, self._part = inner, part
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._part.size - self._position))
        self._inner.seek(self._part.first + self._position)
        data = self._inner.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._part.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def close(self) -> None:
        self._inner.close()
        super().close()


def open_window(inner: BinaryIO, part: ByteRange) -> BinaryIO:
    """Returns the range as a file; closing it closes the underlying file."""
    return cast(BinaryIO, io.BufferedReader(_Window(inner, part)))
