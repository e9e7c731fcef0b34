"""Writes a local file that appears under its name only once it is complete and on the disk."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp-"
"""Prefix of temporary files, which a killed writer may leave behind and readers ignore."""


class AtomicFile:
    """A file that is written piece by piece, and deleted unless it is published.

    A context manager. The temporary file is in the final folder, so publishing is a rename.

    Args:
        folder: The folder, which is created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._temporary = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        self._file: IO[bytes] = self._temporary.open("wb")

    def write(self, data: bytes | memoryview) -> int:
        """Appends bytes.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        return self._file.write(data)

    def publish(self, name: str) -> None:
        """Syncs the file to the disk and renames it to `name`.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        _free_page_cache(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._folder / name)
        _sync_folder(self._folder)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        # After `publish`, there is no temporary file any more.
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _free_page_cache(descriptor: int) -> None:
    """Tells the system that a synced file is not read soon, where it has such a call.

    Otherwise a build fills the memory with its output and takes new pages for every shard, which
    took a quarter of the processor time of commits on a virtual machine, and the audio that is
    read next is evicted.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable by syncing the folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
