"""Reads remote files, fetching only the needed bytes, and each byte once.

Bytes are fetched in blocks that stay in memory, so that a decoder's many small reads and seeks need
few requests, and consecutive clips of one file share the blocks. A process keeps the blocks of the
files that it read last. A file that was replaced meanwhile (another size, time or tag) is fetched
again.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from manifests import web
from manifests.audio_address import ByteRange
from manifests.errors import AudioError
from manifests.storage import filesystem

BLOCK = 1 << 14
"""Minimum number of bytes to fetch, and the unit in which they are kept."""
FIRST_FETCH = 1 << 15
"""Bytes from a file's start that are fetched first: headers and seek tables."""
SMALL = 1 << 20
"""Files up to this size are fetched whole at the first read."""
MAX_AHEAD = 1 << 22
"""Maximum number of bytes to fetch at once, beyond the requested ones."""
KEPT_BYTES = 1 << 27
"""Maximum number of bytes of remote files that a process keeps."""


@dataclass(slots=True, eq=False)
class _Blocks:
    """The fetched blocks of one remote file."""

    name: str
    read: Callable[[int, int], bytes]
    """Function of (first byte, counted from the start of the file or part; number of bytes)."""
    size: int
    stamp: object
    blocks: dict[int, bytes] = field(default_factory=dict)
    fetched: int = 0
    """Bytes in `blocks`."""
    first_fetch: int = field(default_factory=lambda: FIRST_FETCH)
    small: int = field(default_factory=lambda: SMALL)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fetch(self, first: int, last: int) -> None:
        """Fetches the missing blocks between `first` and `last`."""
        if self.size <= self.small:
            first, last = 0, (self.size - 1) // BLOCK
        missing = [number for number in range(first, last + 1) if number not in self.blocks]
        while missing:
            run = 1
            while run < len(missing) and missing[run] == missing[0] + run:
                run += 1
            start = missing[0] * BLOCK
            count = min(run * BLOCK, self.size - start)
            data = self.read(start, count)
            if len(data) != count:
                raise AudioError(
                    "unreadable",
                    f"{self.name} gave {len(data)} of {count} bytes at byte {start}: it was cut "
                    "off or replaced",
                )
            for order, number in enumerate(missing[:run]):
                self.blocks[number] = data[order * BLOCK : (order + 1) * BLOCK]
            self.fetched += count
            missing = missing[run:]


_lock = threading.Lock()
_kept: OrderedDict[str, _Blocks] = OrderedDict()


class RangedFile(io.RawIOBase):
    """A remote file, open for reading at any position.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the store or the web server did not answer.
    """

    def __init__(self, blocks: _Blocks) -> None:
        self._blocks = blocks
        self._position = 0
        self._ahead = 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._blocks.size

    @property
    def stamp(self) -> object:
        """Identifies the file's content; None if the server sends neither a tag nor a time."""
        return self._blocks.stamp and (self._blocks.name, self._blocks.stamp)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def expect(self, count: int) -> None:
        """Announces how many bytes will be read in sequence, for prefetching."""
        self._ahead = count

    def read(self, size: int = -1) -> bytes:
        """Reads up to `size` bytes; all remaining bytes if it is negative."""
        left = max(0, self.size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        if not count:
            return b""
        first, last = self._position // BLOCK, (self._position + count - 1) // BLOCK
        blocks = self._blocks
        with blocks.lock:
            if any(number not in blocks.blocks for number in range(first, last + 1)):
                ahead = min(max(self._ahead, count), max(MAX_AHEAD, count))
                if not blocks.blocks:
                    ahead = max(ahead, blocks.first_fetch)
                end = min(self._position + ahead, self.size) - 1
                blocks.fetch(first, max(last, end // BLOCK))
                self._ahead = max(0, self._ahead - ahead)
            data = b"".join(blocks.blocks[number] for number in range(first, last + 1))
        start = self._position - first * BLOCK
        self._position += count
        return data[start : start + count]

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        super().close()
        _forget_oldest()


def open_ranged(file: str, part: ByteRange | None, *, is_probe: bool = False) -> RangedFile:
    """Opens a remote file, or a range of it, at an address with a scheme.

    Args:
        file: The address.
        part: The part to read; None for the whole file.
        is_probe: Fetch only a little, and keep nothing for the next reader.

    Raises:
        AudioError: the range is not in the file.
        FileNotFoundError: there is no such file.
        OSError: the store or the web server did not answer.
    """
    if is_probe:
        is_web = file.startswith(web.SCHEMES)
        probed = _open_web(file, part, BLOCK) if is_web else _open_object(file, part)
        probed.first_fetch = probed.small = BLOCK
        return RangedFile(probed)
    name = f"{file}{part or ''}"
    with _lock:
        known = _kept.get(name)
    if file.startswith(web.SCHEMES):
        now = _open_web(file, part, FIRST_FETCH, known)
    else:
        now = _open_object(file, part)
    if known is not None and now.stamp and known.stamp == now.stamp:
        now = known
    with _lock:
        _kept[name] = now
        _kept.move_to_end(name)
    return RangedFile(now)


def _forget_oldest() -> None:
    """Enforces `KEPT_BYTES`: drops the oldest files first, then the oldest blocks of the last
    file."""
    with _lock:
        total = sum(blocks.fetched for blocks in _kept.values())
        while total > KEPT_BYTES and len(_kept) > 1:
            total -= _kept.popitem(last=False)[1].fetched
        if total <= KEPT_BYTES:
            return
        (last,) = _kept.values()
    with last.lock:
        for number in [number for number in last.blocks if number * BLOCK >= FIRST_FETCH]:
            if last.fetched <= KEPT_BYTES // 2:
                return
            last.fetched -= len(last.blocks.pop(number))


def _open_object(file: str, part: ByteRange | None) -> _Blocks:
    files, path = filesystem(file)
    info = files.get_file_info(path)
    if not info.is_file:
        raise IsADirectoryError(file) if info.type.name == "Directory" else FileNotFoundError(file)
    first, size = _place(file, part, info.size)
    opened = []

    def read(position: int, count: int) -> bytes:
        if not opened:
            opened.append(files.open_input_file(path))
        return opened[0].read_at(count, first + position)

    return _Blocks(f"{file}{part or ''}", read, size, (info.size, info.mtime_ns))


def _open_web(
    file: str, part: ByteRange | None, count: int, known: _Blocks | None = None
) -> _Blocks:
    """Opens a file on a web server, and fetches its first bytes in the same request.

    If the server ignores ranges, the whole file is fetched once.

    Args:
        file: The address.
        part: The part to read; None for the whole file.
        count: Number of bytes to fetch first.
        known: The file as it was opened before, which is returned if it has not changed.
    """
    start, most = (part.first, part.size) if part else (0, count)
    head = web.get(file, start, start + (1 if known else min(count, most)) - 1)
    if head.ignores_ranges and part:
        raise AudioError("unreadable", web.no_ranges(file))
    if known is not None:
        if head.stamp and known.stamp == (head.size, head.stamp):
            return known
        return _open_web(file, part, count)
    if head.ignores_ranges or head.size is None:
        head = web.get(file)
    whole = len(head.data) if head.size is None else head.size
    first, size = _place(file, part, whole)

    def read(position: int, count: int) -> bytes:
        answer = web.get(file, first + position, first + position + count - 1)
        if answer.ignores_ranges:
            return web.get(file).data[position : position + count]
        return answer.data

    blocks = _Blocks(f"{file}{part or ''}", read, size, (whole, head.stamp) if head.stamp else None)
    data = head.data[:size]
    usable = len(data) if len(data) == size else len(data) // BLOCK * BLOCK
    for number in range(-(-usable // BLOCK)):
        blocks.blocks[number] = data[number * BLOCK : min((number + 1) * BLOCK, usable)]
    blocks.fetched = usable
    return blocks


def _place(file: str, part: ByteRange | None, size: int) -> tuple[int, int]:
    """Returns first byte and size of the part, or of the whole file."""
    if part is None:
        return 0, size
    check_inside(file, part, size)
    return part.first, part.size


def check_inside(file: str, part: ByteRange, size: int) -> None:
    """Checks a range against its file.

    Raises:
        AudioError: the range goes beyond the end.
    """
    if part.last >= size:
        raise AudioError(
            "unreadable",
            f"byte {part.last} of {file} is beyond the file's end, which has {size} bytes: it was "
            "cut off or replaced",
        )
