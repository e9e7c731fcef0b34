"""Provides a disk that is really full.

This is a small file system where mounting is allowed. Elsewhere it is the operating system's limit
on the size of a file, beyond which writes fail as well.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = 48 << 20
FILLER = "filler"


class SmallDisk:
    """A folder that can be filled up.

    Args:
        folder: Path of the folder; a file system is mounted there if that is allowed.
        mounts: Whether to try to mount a file system.
    """

    def __init__(self, folder: Path, *, mounts: bool = True) -> None:
        folder.mkdir()
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
        self.is_mounted = (
            mounts
            and shutil.which("mount") is not None
            and not subprocess.run(mount, capture_output=True).returncode
        )

    @contextmanager
    def full(self, leaving: int = 0) -> Iterator[None]:
        """Leaves this many bytes free; without a mount, it is the largest size of a file."""
        if not self.is_mounted:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (leaving, hard))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            return
        filler = self.folder / FILLER
        filler.write_bytes(bytes(shutil.disk_usage(self.folder).free - leaving))
        try:
            yield
        finally:
            filler.unlink()

    def close(self) -> None:
        """Unmounts the file system."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
