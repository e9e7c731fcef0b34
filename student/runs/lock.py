"""Allows one training per folder, with a lock that ends with its process in any case."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from manifests.console import messages
from manifests.errors import UserError, is_disk_full

LOCK_FILE = "training.lock"


UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems without locks, such as some network mounts."""


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Holds a folder for one training.

    The content of the lock file describes the holder, for information only. The lock itself is that
    of the operating system, so a file left by a dead process, on this machine or another, has no
    effect.

    Raises:
        UserError: the folder cannot be created, or another training holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a+")
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"--out {folder} cannot be used as a folder: {error.strerror}; choose another"
        ) from None
    with file:
        _lock(file, folder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            _remove_if_alone(folder, LOCK_FILE)


def _lock(file: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        raise UserError(
            f"another training run is using {folder}{f' ({holder})' if holder else ''}; wait until "
            "it has finished, or choose another --out"
        ) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        messages.print(
            f"{folder} is on a file system without locks; start no second training there"
        )


def _remove_if_alone(folder: Path, name: str) -> None:
    """Removes a folder that contains only the lock: no run was started in it."""
    if [file.name for file in folder.iterdir()] == [name]:
        (folder / name).unlink()
        folder.rmdir()
