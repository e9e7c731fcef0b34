"""Allows one process at a time to write to a folder on a disk: a build, or a training run.

The lock is that of the operating system and ends with its process, however it ends. The content of
its file describes the holder, for messages only, so that a file left by a dead process, on this
machine or another, has no effect. Folders in object stores have `manifests.store_lease` instead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from manifests.console import messages
from manifests.errors import UserError, is_disk_full

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems without locks, such as some network mounts."""


@contextmanager
def folder_lock(folder: Path, name: str, *, what: str) -> Iterator[None]:
    """Holds a folder. It is created if it is missing, and removed if it stays empty.

    On a file system without locks, the user is warned and the folder is not held.

    Args:
        folder: The folder.
        name: Name of the lock's file in it.
        what: The process's work on the folder, such as `build`, for messages.

    Raises:
        UserError: another process holds the folder, or it cannot be created or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquire(folder, name, what)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"--out {folder} cannot be used as a folder: {error.strerror}; choose another"
        ) from None
    with file:
        file.truncate(0)
        file.write(describe_process())
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
                folder.rmdir()


def try_lock(file: IO[Any], place: Path, what: str) -> bool:
    """Locks an open file until it is closed; prints a warning if its file system has no locks.

    Args:
        file: The file.
        place: The file or folder that the lock protects, for the warning.
        what: The process's work on it, for the warning.

    Returns:
        Whether no other process holds the lock.

    Raises:
        OSError: the file system fails.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        messages.print(f"{place} is on a file system without locks; start no second {what} there")
    return True


def describe_process() -> str:
    """Describes this process for messages of others."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def busy(folder: str | Path, what: str, holder: str) -> UserError:
    """The error to raise if another process holds a folder."""
    return UserError(
        f"another {what} is writing to {folder}{f' ({holder})' if holder else ''}; wait until it "
        "has finished, or choose another --out"
    )


def _acquire(folder: Path, name: str, what: str) -> TextIO:
    while True:
        file = (folder / name).open("a+")
        try:
            if not try_lock(file, folder, what):
                file.seek(0)
                raise busy(folder, what, file.read().strip())
            if _is_same(file, folder / name):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # Its owner has just ended and removed it.


def _is_same(file: TextIO, path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
