"""One training per folder: a lock that ends with its process, however the process ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manifests.errors import UserError

LOCK_FILE = "training.lock"


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Holds a folder for one training.

    Raises:
        UserError: the folder cannot be made, or another training holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise UserError(
            f"--out {folder} cannot be used as a folder: {error.strerror}; choose another"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another training run is using {folder}; wait until it has finished, or choose "
                "another "
                "--out"
            ) from None
        try:
            yield
        finally:
            _remove_if_alone(folder, LOCK_FILE)


def _remove_if_alone(folder: Path, name: str) -> None:
    """Takes a folder away in which nothing but the lock is: no run has begun in it."""
    if [file.name for file in folder.iterdir()] == [name]:
        (folder / name).unlink()
        folder.rmdir()
