"""Decodes with libsndfile the formats in which it seeks exactly (WAV, FLAC, AIFF, AU, CAF, W64,
...).

The length in a header does not limit the result: if it is wrong or unknown, `Unsupported` leaves
the file to FFmpeg, or reading continues to the end of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, cast

import soundfile

from manifests.clips import Clip
from manifests.decoders import headers
from manifests.decoders.collect import Samples, with_power
from manifests.decoders.files import AudioFile

SEEKS_BADLY = ("MP3", "OGG")
"""Formats in which libsndfile seeks to a wrong place (Vorbis, near the end) or to frames without
their bit reservoir (MP3); soundfile seeks before every read. FFmpeg returns the same samples,
except at the ends of short links of Vorbis, which `manifests.decoders.ogg` corrects."""
BLOCK = 1 << 18
"""Samples per channel that are decoded at a time, so that many channels need little memory."""


class Unsupported(Exception):
    """libsndfile cannot read this file correctly."""


class _ForwardFile(soundfile.SoundFile):
    """A file whose reads follow each other.

    soundfile seeks to where it is after every read of a seekable file. libsndfile decodes again for
    that, and fails at the end of a FLAC whose length is hidden.
    """

    def seekable(self) -> bool:
        return False


def read(file: AudioFile, clips: Sequence[Clip], max_seconds: float) -> list[Samples]:
    """Decodes clips of one file; a clip that fails carries its error.

    Raises:
        Unsupported: libsndfile does not know the format, or the file is incomplete.
    """
    if tag := headers.id3_size(file):
        file.shifted(tag)
    if headers.is_mp3_or_ogg(file):
        raise Unsupported("MP3 and OGG are left to FFmpeg")
    stated, rate = _flac_length(file)
    if not stated:
        return _read(file, clips, max_seconds, 0)
    is_bounded = all(_lies_within(clip, stated, rate) for clip in clips)
    if is_bounded or all(clip.offset > 0 for clip in clips):
        # libFLAC seeks correctly if it knows the length.
        samples = _read(file, clips, max_seconds, stated)
        if is_bounded or not _continues(file, stated):
            return samples
    try:
        _forget_flac_length(file)
        return _read(file, clips, max_seconds, stated)
    finally:
        file.patched(0, b"")


def _read(file: AudioFile, clips: Sequence[Clip], max_seconds: float, stated: int) -> list[Samples]:
    """Decodes clips; `stated` is the length in samples that a FLAC file states, else 0."""
    end = None
    chunk = headers.audio_chunk(file)
    file.seek(0)
    try:
        with _ForwardFile(cast(BinaryIO, file)) as sound:
            if sound.format in SEEKS_BADLY or sound.subtype.startswith("MPEG"):
                raise Unsupported(f"{sound.format} ({sound.subtype}) is left to FFmpeg")
            if not sound.frames and chunk and headers.is_unfinished(file, chunk):
                raise Unsupported("its length is stated as 0")
            sounds = [Samples(clip, sound.samplerate, max_seconds) for clip in clips]
            length = None if sound.frames > 1 << 60 else sound.frames
            for samples in sorted(sounds, key=lambda each: each.start):
                _expect(file, sound, samples)
                end = _read_clip(sound, samples, length, stated) or end
    except soundfile.LibsndfileError as error:
        raise Unsupported(str(error.error_string)) from None
    except (soundfile.SoundFileError, ValueError) as error:
        raise Unsupported(str(error)) from None
    if end is not None and stated and end < stated:
        raise Unsupported(f"{end} of {stated} samples are there")
    length = end or length or max((samples.end for samples in sounds), default=0)
    for samples in sounds:
        missing = length * chunk.missing if chunk else 0.0
        samples.finish(length, missing / samples.sample_rate)
    return sounds


def _lies_within(clip: Clip, stated: int, rate: int) -> bool:
    """Whether a clip ends before the stated length (in samples); libFLAC then seeks correctly."""
    return clip.duration is not None and (clip.offset + clip.duration) * rate < stated - 1


def _expect(file: AudioFile, sound: soundfile.SoundFile, samples: Samples) -> None:
    """Prefetches the bytes that the clip needs, estimated by its share of the file."""
    if sound.frames and samples.stop is not None and not samples.error:
        share = (samples.stop - samples.start) / sound.frames
        file.expect(round(min(share, 1.0) * file.size))


def _read_clip(
    sound: soundfile.SoundFile, samples: Samples, length: int | None, stated: int
) -> int | None:
    """Reads one clip; returns the file's length if its end was reached.

    Args:
        sound: The file.
        samples: The clip, without samples.
        length: Length of the file, if libsndfile knows it.
        stated: Length that the header of a FLAC states, or 0.
    """
    if samples.error or (length is not None and samples.start >= length):
        return None
    if samples.start or sound.tell():
        sound.seek(samples.start)
    while not samples.is_done:
        left = (
            (length or stated) + 1 - samples.end
            if samples.stop is None
            else (samples.stop - samples.end)
        )
        # One sample more than there should be shows whether that is the end.
        count = min(left, BLOCK) if left > 0 else BLOCK
        block = sound.read(count, dtype="float32", always_2d=True)
        if len(block):
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(1)
            samples.add(samples.end, *with_power(mono, block))
        if len(block) < count:
            return samples.end
    return None


def _flac_length(file: AudioFile) -> tuple[int, int]:
    """Reads the number of samples and rate of a FLAC file; 0 if unknown or not FLAC."""
    head = file.peek(0, 26)
    if head[:4] != b"fLaC" or len(head) < 26:
        return 0, 0
    packed = int.from_bytes(head[18:26], "big")
    return packed & 0xF_FFFF_FFFF, packed >> 44


def _continues(file: AudioFile, stated: int) -> bool:
    """Whether a FLAC file has audio behind its stated length, e.g. of a second file."""
    try:
        _forget_flac_length(file)
        file.seek(0)
        with _ForwardFile(cast(BinaryIO, file)) as sound:
            sound.seek(stated - 1)
            return len(sound.read(2, dtype="float32")) > 1
    except (soundfile.SoundFileError, ValueError):
        return True
    finally:
        file.patched(0, b"")


def _forget_flac_length(file: AudioFile) -> None:
    """Hides a FLAC stream's stated length, so that libsndfile reads to the real end."""
    high = file.peek(21, 1)[0] & 0xF0
    file.patched(21, bytes([high, 0, 0, 0, 0]))
