"""Decoding by libsndfile: what it can seek in to the sample (WAV, FLAC, AIFF, AU, CAF, W64, ...).

The length in a header is no bound here: where it is wrong or unknown, `Unsupported` leaves the file
to FFmpeg, or the read goes on to the file's end.
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
"""Formats in which libsndfile lands elsewhere (Vorbis, near the end) or on frames that lack their
bit reservoir (MP3), and soundfile seeks at every read. FFmpeg gives the same samples; of some
Vorbis files it leaves out the last block (3 to 6 ms)."""
BLOCK = 1 << 18
"""Samples per channel that are decoded at a time, so that many channels need little memory."""


class Unsupported(Exception):
    """libsndfile is not the one to read this file."""


def read(file: AudioFile, clips: Sequence[Clip], max_seconds: float) -> list[Samples]:
    """Decodes clips of one file; one that cannot be had carries its error.

    Raises:
        Unsupported: the format is not libsndfile's, or the file is not whole.
    """
    try:
        if tag := headers.id3_size(file):
            file.shifted(tag)
        chunk = headers.audio_chunk(file)
        _forget_flac_length(file)
        with soundfile.SoundFile(cast(BinaryIO, file)) as sound:
            if sound.format in SEEKS_BADLY:
                raise Unsupported(f"{sound.format} is left to FFmpeg")
            if not sound.frames and chunk and headers.is_unfinished(file, chunk):
                raise Unsupported("its length is stated as 0")
            sounds = [Samples(clip, sound.samplerate, max_seconds) for clip in clips]
            length = None if sound.frames > 1 << 60 else sound.frames
            for samples in sounds:
                length = _read_clip(sound, samples, length) or length
    except soundfile.LibsndfileError as error:
        raise Unsupported(str(error.error_string)) from None
    except (soundfile.SoundFileError, ValueError) as error:
        raise Unsupported(str(error)) from None
    finally:
        file.patched(0, b"")
    if length is None:
        length = max((samples.end for samples in sounds), default=0)
    stated = _flac_length(file)
    for samples in sounds:
        missing = length * chunk.missing if chunk else 0.0
        samples.finish(length, missing / samples.sample_rate)
        if stated and length < stated and not samples.error and samples.end >= length:
            raise Unsupported(f"{length} of {stated} samples are there")
    return sounds


def _read_clip(sound: soundfile.SoundFile, samples: Samples, length: int | None) -> int | None:
    """Reads one clip; the file's length where its end was met."""
    if samples.error or (length is not None and samples.start >= length):
        return None
    sound.seek(samples.start)
    while not samples.is_done:
        count = BLOCK if samples.stop is None else min(samples.stop - samples.end, BLOCK)
        block = sound.read(count, dtype="float32", always_2d=True)
        if len(block):
            samples.add(samples.end, *with_power(block.mean(1), block))
        if len(block) < count:
            return samples.end
    return None


def _flac_length(file: AudioFile) -> int:
    """Samples that a FLAC file states; 0 where it states none, or is none."""
    head = file.peek(0, 26)
    if head[:4] != b"fLaC" or len(head) < 26:
        return 0
    return int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF


def _forget_flac_length(file: AudioFile) -> None:
    """Hides a FLAC stream's stated length, so that libsndfile reads on to the real end."""
    if _flac_length(file):
        high = file.peek(21, 1)[0] & 0xF0
        file.patched(21, bytes([high, 0, 0, 0, 0]))
