"""Compares the length in a file's header with the content of the file.

Three cases matter to a reader: a killed recorder leaves a length of 0, an interrupted copy has
fewer bytes than the header says, and `cat` appends a second file to the first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from manifests.decoders.files import AudioFile

STREAMED = 0x7FFF_0000
"""32-bit lengths of at least this value are written by programs that cannot seek back (sox, ffmpeg,
arecord), or for files of 2 GiB and more, whose length may not fit into 32 bits."""
MAGICS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff", b".snd", b"riff", b"fLaC")
LONGEST = 1 << 60
"""64-bit lengths of at least this value are written by programs that cannot seek back."""
OGG_PAGE = 65_307
"""Size of the largest page in bytes."""
TRAILING_BYTES = 4096
"""Fewer bytes after the audio count as padding."""


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Position and size of the samples in a file."""

    start: int
    """Byte."""
    declared: int | None
    """Bytes according to the header; None if it does not state them."""
    available: int
    """Bytes up to the end of the file."""
    is_followed: bool
    """Whether the rest of the file belongs to it: other chunks, or nothing."""

    @property
    def missing(self) -> float:
        """Missing bytes as a share of the existing bytes."""
        if self.declared is None or self.declared <= self.available or not self.available:
            return 0.0
        return self.declared / self.available - 1

    @property
    def trailing(self) -> int:
        """Bytes after the audio that belong to no chunk."""
        if not self.declared or self.is_followed:
            return 0
        rest = self.available - self.declared
        return rest if rest > TRAILING_BYTES else 0


def id3_size(file: AudioFile) -> int:
    """Returns the size of ID3v2 tags before formats other than MP3; 0 if there are none.

    Both libraries handle tags before MP3, and FFmpeg needs to see them there.
    """
    position = 0
    while (head := file.peek(position, 10))[:3] == b"ID3" and len(head) == 10:
        size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        position += 10 + size + (10 if head[5] & 0x10 else 0)
    return position if file.peek(position, 4) in MAGICS else 0


def is_mp3_or_ogg(file: AudioFile) -> bool:
    """Whether a file begins like MP3 or Ogg; faster than letting a library scan the whole file."""
    head = file.peek(0, 4)
    is_layer_3 = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2
    return head[:4] == b"OggS" or head[:3] == b"ID3" or is_layer_3


def audio_chunk(file: AudioFile) -> AudioChunk | None:
    """The chunk with the samples; None for formats that this module does not know."""
    head = file.peek(0, 40)
    kind = head[:4]
    if kind == b".snd" and len(head) >= 12:
        start, size = struct.unpack(">II", head[4:12])
        return AudioChunk(start, _known(size), file.size - start, True)
    if kind == b"caff":
        return _search(file, 8, ">4sq", b"data", 4)
    if head[:16] == b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00":
        return _search(file, 40, "<4s12xq", b"data", 0)
    if kind == b"FORM":
        return _search(file, 12, ">4sI", b"SSND", 8)
    if kind in (b"RIFF", b"RF64", b"BW64"):
        return _search(file, 12, "<4sI", b"data", 0)
    return _search(file, 12, ">4sI", b"data", 0) if kind == b"RIFX" else None


def is_unfinished(file: AudioFile, chunk: AudioChunk) -> bool:
    """Whether a RIFF file with length 0 was left by a killed recorder, and is not empty."""
    whole = int.from_bytes(file.peek(4, 4), "little")
    return chunk.declared == 0 and chunk.available > 0 and whole + 8 < chunk.start + chunk.available


def is_broken_page(file: AudioFile) -> bool:
    """Whether an Ogg file ends in the middle of a page."""
    if file.peek(0, 4) != b"OggS":
        return False
    tail = file.peek(max(0, file.size - OGG_PAGE), OGG_PAGE)
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _search(
    file: AudioFile, position: int, layout: str, chunk_name: bytes, inner: int
) -> AudioChunk | None:
    """Walks through chunks up to the requested one.

    Args:
        file: A file of chunks.
        position: The first chunk.
        layout: Format of a chunk's header for `struct`: name and size.
        chunk_name: Name of the chunk.
        inner: Bytes at the start of the chunk that are not samples.
    """
    size_of_head = struct.calcsize(layout)
    is_w64, wide = "12x" in layout, 0
    while position < file.size:
        head = file.peek(position, size_of_head)
        if len(head) < size_of_head:
            return None
        name, size = struct.unpack(layout, head)
        if name == b"ds64":
            wide = int.from_bytes(file.peek(position + 16, 8), "little")
        if is_w64:
            size -= size_of_head
        start = position + size_of_head
        if name == chunk_name:
            if size == 0xFFFF_FFFF and wide:
                size = wide
            elif "I" in layout:
                size = _known(size)
            elif not 0 <= size < LONGEST:
                size = None
            declared = None if size is None or size < inner else size - inner
            after = start + (size or 0) + (size or 0) % 2
            follows = file.peek(after, 4) if size and after < file.size else b""
            return AudioChunk(
                start + inner, declared, file.size - start - inner, _is_chunk_name(follows)
            )
        if size < 0 or size == 0xFFFF_FFFF:
            return None
        position = start + size + (-size % 8 if is_w64 else size % 2 if "I" in layout else 0)
    return None


def _known(size: int) -> int | None:
    return None if size >= STREAMED else size


def _is_chunk_name(name: bytes) -> bool:
    return len(name) < 4 or (name not in MAGICS and all(32 <= byte < 127 for byte in name))
