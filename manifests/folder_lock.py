"""One process per folder on a local disk: a lock that ends with its process, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from manifests.errors import UserError


@contextmanager
def folder_lock(folder: Path, name: str, *, busy: str) -> Iterator[None]:
    """Holds a folder, which is made where it is missing and taken away where it stays empty.

    Args:
        folder: The folder.
        name: Name of the lock's file in it, which a killed process leaves behind to no harm.
        busy: The message where another process holds the folder.

    Raises:
        UserError: another process holds the folder.
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        file = (folder / name).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(busy) from None
        except OSError:  # The disk (some network disks) has no locks.
            break
        if _is_same(file, folder / name):
            break
        file.close()  # Its owner has just ended and removed it.
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
                folder.rmdir()


def _is_same(file: IO[str], path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
