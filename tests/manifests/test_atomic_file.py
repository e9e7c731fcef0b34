"""Tests that a published file is complete, on the disk, and no longer in the page cache."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

from manifests.atomic_file import AtomicFile

SIZE = 32 << 20


def resident_share(path: Path) -> float:
    """Returns the share of a file's pages that are in memory (mincore(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        held = ctypes.c_char.from_buffer(pages)
        states = (ctypes.c_ubyte * (len(pages) // mmap.PAGESIZE))()
        address = ctypes.c_void_p(ctypes.addressof(held))
        assert libc.mincore(address, ctypes.c_size_t(len(pages)), states) == 0
        del held
    return sum(state & 1 for state in states) / len(states)


def test_published_file_leaves_the_page_cache(tmp_path: Path):
    """A build that fills the memory with its output evicts the audio that it reads next."""
    data = bytes(range(256)) * (SIZE // 256)
    (tmp_path / "usual").write_bytes(data)
    assert resident_share(tmp_path / "usual") > 0.9
    with AtomicFile(tmp_path) as file:
        file.write(data)
        file.publish("shard")
    assert resident_share(tmp_path / "shard") < 0.1
    assert (tmp_path / "shard").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard", "usual"]


def test_unpublished_file_disappears(tmp_path: Path):
    with AtomicFile(tmp_path) as file:
        file.write(b"half")
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())
