"""Reads the pages of Ogg files: their links, gaps between pages, and where a stream ends."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.decoders.files import AudioFile

PROBES = 8
"""Number of places of a remote Ogg file that are checked."""
WINDOW = 1 << 14
"""Bytes that are read at a place; Ogg pages are rarely longer."""
LONGEST_HEADER = 27 + 255
"""Bytes of a page's header."""


@dataclass(frozen=True, slots=True)
class Page:
    """The header of a page."""

    serial: int
    sequence: int
    granule: int
    """Number of samples of the stream up to the end of the page's last packet; -1 if none ends."""
    size: int
    is_first: bool
    is_last: bool
    """Whether it is the last page of its stream."""


def read_page(data: bytes, place: int = 0) -> Page | None:
    """Reads the header of a page (RFC 3533, section 6); None if none begins at this place."""
    if data[place : place + 5] != b"OggS\0" or len(data) < place + 27:
        return None
    segments = data[place + 26]
    lacing = data[place + 27 : place + 27 + segments]
    if len(lacing) < segments:
        return None
    granule = int.from_bytes(data[place + 6 : place + 14], "little", signed=True)
    serial = int.from_bytes(data[place + 14 : place + 18], "little")
    sequence = int.from_bytes(data[place + 18 : place + 22], "little")
    size = 27 + segments + sum(lacing)
    flags = data[place + 5]
    return Page(serial, sequence, granule, size, bool(flags & 2), bool(flags & 4))


def is_one_stream(file: AudioFile) -> bool:
    """Whether a file is one stream without missing pages; only some pages of a remote file are
    checked."""
    if file.is_remote:
        return _check_places(file)
    data, position, sequence = b"", 0, -1
    base, serial, granule = 0, None, 0
    while position < file.size:
        if position + LONGEST_HEADER > base + len(data):
            base, data = position, file.peek(position, WINDOW * 16)
        page = read_page(data, position - base)
        if page is None:
            return position + LONGEST_HEADER > file.size
        if serial is None:
            serial = page.serial
        elif page.serial != serial or page.sequence != sequence + 1 or page.is_first:
            return False
        if page.granule >= 0:
            if page.granule < granule:
                return False
            granule = page.granule
        sequence, position = page.sequence, position + page.size
    return serial is not None


def _check_places(file: AudioFile) -> bool:
    """Checks one stream by its first, last and some other pages, whose times must increase."""
    serial, before = None, (-1, -1)
    for probe in range(PROBES + 1):
        last = probe == PROBES
        start = max(file.size - WINDOW, 0) if last else file.size * probe // PROBES
        data = file.peek(start, WINDOW)
        places = [
            place
            for place in _places(data)
            if (page := read_page(data, place)) and page.granule >= 0
        ]
        if not places:
            return False
        pages = [page for place in (places[0], places[-1]) if (page := read_page(data, place))]
        for page in pages:
            serial = page.serial if serial is None else serial
            now = (page.sequence, page.granule)
            if page.serial != serial or now[0] < before[0] or now[1] < before[1]:
                return False
            before = now
    return True


def next_link(file: AudioFile, after: int) -> int | None:
    """Finds the first byte of the next link of a chained file.

    A link begins with the first pages of its streams.

    Args:
        file: The file.
        after: First byte of a link.
    """
    position, is_head = after, True
    data, base = b"", 0
    while position < file.size:
        if position + LONGEST_HEADER > base + len(data):
            base, data = position, file.peek(position, WINDOW * 16)
        page = read_page(data, position - base)
        if page is None:
            place = data.find(b"OggS\0", position - base + 1)
            position = base + place if place > 0 else max(position + 1, base + len(data) - 4)
            continue
        if page.is_first and not is_head and position > after:
            return position
        is_head, position = page.is_first, position + page.size
    return None


class Link:
    """The pages of one link that were read so far.

    FFmpeg decodes the beginning of the next link with the decoder of this one, so that the samples
    are wrong: each link needs a decoder of its own.

    FFmpeg also counts the first block of Vorbis, which has no samples, if all audio is on a single
    page. It therefore omits the last block, or decodes the padding behind it.
    """

    def __init__(self) -> None:
        self._position = -1
        self._page: Page | None = None
        self._left: int | None = None
        """Samples up to the end of the only page; None if there are others."""

    @property
    def is_one_page(self) -> bool:
        """Whether all audio is on a single page."""
        return self._left is not None

    def contains(self, file: AudioFile, position: int) -> bool:
        """Notes a packet's page, and returns whether it can belong to this link.

        Args:
            file: The file.
            position: First byte of the page.
        """
        if position == self._position:
            return True
        page, before = read_page(file.peek(position, LONGEST_HEADER)), self._page
        if page is None:
            return True
        if before is None and page.is_last and page.granule > 0:
            self._left = page.granule
        self._position, self._page = position, page
        if before is None:
            return True
        is_later = before.serial == page.serial and before.sequence <= page.sequence
        return is_later and not before.is_last

    def without_padding(self, count: int) -> int:
        """Returns how many of the next `count` samples of Vorbis are not padding."""
        if self._left is None:
            return count
        count = min(count, self._left)
        self._left -= count
        return count


def _places(data: bytes) -> list[int]:
    places, place = [], data.find(b"OggS\0")
    while place >= 0:
        places.append(place)
        place = data.find(b"OggS\0", place + 1)
    return places
