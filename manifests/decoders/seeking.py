"""Finds the position of a time in a compressed file, if the position can be proven.

FFmpeg estimates positions in MP3 and Ogg, and in damaged or joined files the samples are not where
the time stamps say. A file is therefore scanned first: every page of Ogg (some pages of a remote
file), every frame header of MP3, every entry of an MP4's table. The result is kept for the next
clips of the file. If the proof fails, packets are read from the start of the file.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import av

from manifests.decoders import ogg
from manifests.decoders.files import AudioFile

CHAIN = 4
"""Number of consecutive MP3 frames that confirm a position."""
KEPT = 64
"""Number of files whose scan a process keeps."""
_BITRATES = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""kbit/s of Layer III by the header's index, for MPEG 1 and for MPEG 2 and 2.5."""
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}

_seen: OrderedDict[Any, Any] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Mp3Frames:
    """The positions of the frames of an MP3 file."""

    samples: int
    """Samples of a frame, per channel."""
    rate: int
    starts: array[int] | None
    """First byte of each frame; None if positions are computed from a constant bit rate."""
    first: int = 0
    """First byte of the first frame, not counting a Xing or Info frame."""
    mean: float = 0.0
    """Bytes per frame at the constant bit rate."""
    end: int | None = None
    """Sample, counted from the first frame, at which the encoder's padding begins, which is not
    played; None if the file does not state it."""

    def find(self, file: AudioFile, frame: int) -> int | None:
        """Finds the first byte of a frame; None if it is not at the expected position."""
        if self.starts is not None:
            return self.starts[frame] if frame < len(self.starts) else None
        expected = self.first + frame * self.mean
        from_byte = max(round(expected - self.mean / 4), self.first)
        data = file.peek(from_byte, round(self.mean * (CHAIN + 1)))
        for place in range(round(self.mean / 2)):
            if _is_chain(data, place, self.rate):
                return from_byte + place
        return None


def table_is_even(track: av.AudioStream) -> bool:
    """Whether the packets in an MP4's table have no gaps."""
    entries = track.index_entries
    count = len(entries)
    if count < 3:
        return False
    step = entries[1].timestamp - entries[0].timestamp
    return step > 0 and entries[count - 1].timestamp == entries[0].timestamp + step * (count - 1)


def ogg_is_one_stream(file: AudioFile) -> bool:
    """Whether an Ogg file is one stream without missing pages, as far as this was checked."""
    return _remember(("ogg", file.stamp), lambda: ogg.is_one_stream(file))


def mp3_frames(file: AudioFile) -> Mp3Frames | None:
    """Returns the positions of the frames of an MP3 file; None if there is other data between
    them."""
    return _remember(("mp3", file.stamp), lambda: _mp3_frames(file))


def _remember(key: tuple[str, Any], look: Any) -> Any:
    if key[1] is None:
        return look()
    if key not in _seen:
        _seen[key] = look()
    _seen.move_to_end(key)
    while len(_seen) > KEPT:
        _seen.popitem(last=False)
    return _seen[key]


def forbid(file: AudioFile) -> None:
    """Records that decoding after a seek in this file is not exact."""
    if file.stamp is not None:
        _remember(("forbidden", file.stamp), lambda: True)


def is_forbidden(file: AudioFile) -> bool:
    """Whether `forbid` was called for this file."""
    return ("forbidden", file.stamp) in _seen


def _mp3_frames(file: AudioFile) -> Mp3Frames | None:
    head, start = file.peek(0, 10), 0
    if head[:3] == b"ID3" and len(head) == 10:
        size = sum(byte << s for byte, s in zip(head[6:], (21, 14, 7, 0), strict=True))
        start = 10 + size + (10 if head[5] & 0x10 else 0)
    first = file.peek(start, 2048)
    length, rate, samples = _header(first, 0)
    if not length:
        return None
    tag = next((mark for mark in (b"Xing", b"Info", b"VBRI") if mark in first[:length]), None)
    if tag is not None:
        start += length
    if file.is_remote and tag == b"Info":
        return _constant(file, start, first[:length], rate, samples)
    frames = _walk(file, start, rate, samples)
    return frames and replace(frames, end=_end(first[:length], samples))


def _constant(
    file: AudioFile, start: int, info: bytes, rate: int, samples: int
) -> Mp3Frames | None:
    """Frames with a constant bit rate, if it agrees with the file's own count of frames and
    bytes."""
    place = _tag(info)
    flags = int.from_bytes(info[place + 4 : place + 8], "big")
    head = file.peek(start, 4)
    if flags & 3 != 3 or not _header(head, 0)[0]:
        return None
    frames = int.from_bytes(info[place + 8 : place + 12], "big")
    size = int.from_bytes(info[place + 12 : place + 16], "big")
    mean = _bit_rate(head) * samples / 8 / rate
    # The stated size includes the Info frame, which is as long as the others.
    if min(abs(size - mean * (frames + extra)) for extra in (0, 1)) > mean / 2:
        return None
    if not 0 <= file.size - start - frames * mean + mean < (1 << 16):
        return None
    return Mp3Frames(samples, rate, None, start, mean, _end(info, samples))


def _tag(info: bytes) -> int:
    """Finds the Xing or Info tag in a first frame; -1 if there is none."""
    return max(info.find(b"Xing"), info.find(b"Info"))


def _end(info: bytes, samples: int) -> int | None:
    """Reads the start of the padding from LAME's part of the tag, as FFmpeg does."""
    place = _tag(info)
    flags = int.from_bytes(info[place + 4 : place + 8], "big")
    if place < 0 or not flags & 1:
        return None
    frames = int.from_bytes(info[place + 8 : place + 12], "big")
    sizes = zip((1, 2, 4, 8), (4, 4, 100, 4), strict=True)
    place += 8 + sum(size for flag, size in sizes if flags & flag)
    if info[place : place + 4] not in (b"LAME", b"Lavf", b"Lavc"):
        return None
    padding = int.from_bytes(info[place + 21 : place + 24], "big") & 0xFFF
    return frames * samples - padding + 528 + 1


def _walk(file: AudioFile, start: int, rate: int, samples: int) -> Mp3Frames | None:
    starts = array("q")
    lengths: dict[bytes, int] = {}
    position, base, data = start, 0, b""
    if file.is_remote:
        file.expect(file.size)
    while position + 4 <= file.size:
        place = position - base
        if place + 4 > len(data) or not data:
            base, data, place = position, file.peek(position, 1 << 22), 0
        key = data[place : place + 3]
        length = lengths.get(key)
        if length is None:
            length, own_rate, own_samples = _header(data, place)
            if length and (own_rate, own_samples) != (rate, samples):
                return None
            lengths[key] = length
        if not length:
            rest = file.peek(position, 1 << 16)
            is_tag = rest[:3] == b"TAG" or rest[:8] == b"APETAGEX" or not rest.strip(b"\0")
            return Mp3Frames(samples, rate, starts, start) if is_tag else None
        starts.append(position)
        position += length
    return Mp3Frames(samples, rate, starts, start)


def _is_chain(data: bytes, place: int, rate: int) -> bool:
    for _ in range(CHAIN):
        length, own_rate, _ = _header(data, place)
        if not length or own_rate != rate:
            return False
        place += length
    return True


def _bit_rate(head: bytes) -> int:
    version = head[1] >> 3 & 3
    return 1000 * _BITRATES[1 if version == 3 else 2][head[2] >> 4]


def _header(data: bytes, place: int) -> tuple[int, int, int]:
    """Bytes, rate and samples of the Layer III frame that begins at a place; zeros for none."""
    head = data[place : place + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0, 0, 0
    version, index, place = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or index in (0, 15) or place == 3:
        return 0, 0, 0
    rate = _RATES[version][place]
    samples = 1152 if version == 3 else 576
    return samples * _bit_rate(head) // 8 // rate + (head[2] >> 1 & 1), rate, samples
