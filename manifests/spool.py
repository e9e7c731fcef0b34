"""A temporary file that stays in memory while it is small, and says so if its disk is full."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any, NoReturn

from manifests.errors import FULL

IN_MEMORY = 64 << 20
"""Bytes up to which a file is prepared in memory."""


class Spool(tempfile.SpooledTemporaryFile):
    """A binary temporary file, on the local disk (`TMPDIR`) from a certain size on.

    Args:
        most_bytes: Size up to which it stays in memory.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__(most_bytes)

    def write(self, data: Any) -> int:
        """Writes bytes.

        Raises:
            OSError: the temporary folder's disk is full; the message names the folder, which is
                usually not on the disk of the cache.
        """
        try:
            return super().write(data)
        except OSError as error:
            _explain(error)

    def seek(self, *place: int) -> int:
        """Moves to a place, which writes what is buffered."""
        try:
            return super().seek(*place)
        except OSError as error:
            _explain(error)

    def close(self) -> None:
        """Closes the file. What is still buffered is not needed, so a full disk does not matter."""
        with contextlib.suppress(OSError):
            super().close()

    def __exit__(self, *_: Any) -> None:
        self.close()


def _explain(error: OSError) -> NoReturn:
    if error.errno not in FULL:
        raise error
    raise OSError(
        error.errno,
        f"{os.strerror(error.errno)} in the temporary folder {tempfile.gettempdir()}, where large "
        "shards are prepared; free space there, or set TMPDIR to a folder on a larger disk",
    ) from None
