"""A disk that is really full: a small file system where one may be mounted, else the limit of the
operating system on the size of a file, which every write beyond it fails with as well."""

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
    """A folder that can be full.

    Args:
        folder: A folder; a file system is mounted there if that is allowed.
        mounts: Whether to try it.
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
        """No room within, but for some bytes; without a mount these are the largest file's."""
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
        """Takes the file system away."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
