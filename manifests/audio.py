"""The samples of a clip: both stages hear exactly the same.

libsndfile reads what it can seek in to the sample (wav, flac, aiff, au, ...), FFmpeg through PyAV
the rest (mp3, ogg, opus, m4a, webm, ...), by decoding from the start and dropping what comes before
the clip: slow for a clip late in a long file, but right. Files are judged by their content, never
by their names. Whatever cannot be used raises `AudioError` with a short stable reason to count by.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
import soundfile
import soxr
from av.error import FFmpegError

from manifests.clips import Clip
from manifests.errors import AudioError
from manifests.storage import filesystem

MIN_RATE = 1_000
"""Hz; a lower rate holds no audible band, and is a damaged header in practice."""
SEEKS_BADLY = ("MP3", "OGG")
"""Formats in which libsndfile lands elsewhere (Vorbis, near the end) or on frames that lack their
bit reservoir (MP3), and soundfile seeks at every read. FFmpeg gives the same samples; of some
Vorbis files it leaves out the last block (3 to 6 ms)."""
BLOCK = 1 << 18
"""Samples per channel that are decoded at a time, so that many channels need little memory."""


@dataclass(frozen=True, slots=True)
class Waveform:
    """Decoded audio at the file's own rate."""

    samples: np.ndarray
    """float32, mono (the mean of the channels), nominally in [-1, 1]."""
    sample_rate: int
    """Hz."""
    digest: str
    """BLAKE2b-128 of the rate and the samples: names the content, whatever the file is called."""

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / self.sample_rate


def load(clip: Clip, sample_rate: int) -> np.ndarray:
    """The clip as float32 mono at a rate in Hz.

    Raises:
        AudioError: the audio cannot be used.
    """
    return resample(decode(clip), sample_rate)


def resample(wave: Waveform, sample_rate: int) -> np.ndarray:
    """The samples at another rate, by soxr's high-quality resampler (linear phase, no delay).

    Raises:
        AudioError: not one sample is left at the lower rate.
    """
    if sample_rate == wave.sample_rate:
        return wave.samples
    samples = soxr.resample(wave.samples, wave.sample_rate, sample_rate, quality="HQ")
    if not len(samples):
        raise AudioError("too-short", f"{wave.seconds:.2g} s are no sample at {sample_rate} Hz")
    return samples


def decode(clip: Clip, *, max_seconds: float = 3600.0) -> Waveform:
    """Decodes a clip: from `offset` for `duration`, exact to the sample.

    A clip that is declared longer than its file is what the file has; one that begins beyond the
    end is an error.

    Raises:
        AudioError: the file is missing or unreadable, the clip has no samples, samples that are
            not finite, more than `max_seconds`, or a sample rate below `MIN_RATE`.
    """
    samples, sample_rate = _samples(clip, max_seconds)
    if not len(samples):
        raise AudioError("empty", f"{clip.uri} has no samples")
    if not np.isfinite(samples).all():
        raise AudioError("not-finite", f"{clip.uri} has NaN or infinite samples")
    head = np.int64(sample_rate).tobytes()
    digest = hashlib.blake2b(head + samples.tobytes(), digest_size=16).hexdigest()
    return Waveform(samples, sample_rate, digest)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Which samples of a file a clip is."""

    start: int
    stop: int | None
    """None means the end of the file."""

    @classmethod
    def of(cls, clip: Clip, sample_rate: int, length: int | None, max_seconds: float) -> _Stretch:
        if sample_rate < MIN_RATE:
            raise AudioError("bad-rate", f"{clip.uri} says {sample_rate} Hz; expected {MIN_RATE}+")
        start = round(clip.offset * sample_rate)
        stop = None if clip.duration is None else start + max(1, round(clip.duration * sample_rate))
        if length is not None:
            if length and start >= length:
                seconds = length / sample_rate
                raise AudioError(
                    "beyond-end",
                    f"{clip.uri} is {seconds:.3f} s long, the clip begins at {clip.offset} s",
                )
            stop = length if stop is None else min(stop, length)
        if stop is not None and stop - start > max_seconds * sample_rate:
            raise _too_long(clip, (stop - start) / sample_rate, max_seconds)
        return cls(start, stop)


def _too_long(clip: Clip, seconds: float, limit: float) -> AudioError:
    return AudioError(
        "too-long",
        f"{clip.uri}: {seconds:.0f} s or more, the limit is {limit:.0f} s; cut it into clips by "
        "offset and duration in the manifest, or raise max_clip_seconds",
    )


def _open(clip: Clip) -> BinaryIO:
    files, path = filesystem(clip.uri)
    try:
        if "://" not in clip.uri:
            return open(path, "rb")
        with files.open_input_stream(path) as stream:
            return io.BytesIO(stream.read())
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError("missing", f"{clip.uri} is not there") from None
    except IsADirectoryError:
        raise AudioError("unreadable", f"{clip.uri} is a folder") from None
    except PermissionError:
        raise AudioError("unreadable", f"{clip.uri} may not be read") from None


def _samples(clip: Clip, max_seconds: float) -> tuple[np.ndarray, int]:
    """The clip by the first library that can read the file."""
    reasons = []
    for name, reader in {"libsndfile": _by_libsndfile, "FFmpeg": _by_ffmpeg}.items():
        with _open(clip) as file:
            try:
                return reader(file, clip, max_seconds)
            except soundfile.LibsndfileError as error:
                reasons.append(f"{name}: {error.error_string}")
            except (soundfile.SoundFileError, FFmpegError, ValueError) as error:
                reasons.append(f"{name}: {getattr(error, 'strerror', None) or error}")
    raise AudioError("unreadable", f"{clip.uri} cannot be decoded ({'; '.join(reasons)})")


def _by_libsndfile(file: BinaryIO, clip: Clip, max_seconds: float) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(file) as sound:
        if sound.format in SEEKS_BADLY:
            raise ValueError(f"{sound.format} is left to FFmpeg")
        wanted = _Stretch.of(clip, sound.samplerate, sound.frames, max_seconds)
        if sound.frames:
            sound.seek(wanted.start)
        count = (wanted.stop or 0) - wanted.start
        blocks = []
        while count > 0:
            block = sound.read(min(count, BLOCK), dtype="float32", always_2d=True)
            if not len(block):
                break
            blocks.append(block.mean(1))
            count -= len(block)
        return _joined(blocks), sound.samplerate


def _by_ffmpeg(file: BinaryIO, clip: Clip, max_seconds: float) -> tuple[np.ndarray, int]:
    # No protocol: a playlist in the guise of a clip must not make FFmpeg open other files.
    alone = {"protocol_whitelist": "none"}
    with av.open(file, mode="r", metadata_errors="ignore", options=alone) as container:
        if not container.streams.audio:
            raise ValueError("there is no audio in it")
        sample_rate = container.streams.audio[0].codec_context.sample_rate
        wanted = _Stretch.of(clip, sample_rate, None, max_seconds)
        limit = wanted.start + int(max_seconds * sample_rate)
        place, blocks = 0, []
        for block in _mono(container.decode(audio=0)):
            end = place + len(block)
            first = max(wanted.start - place, 0)
            last = len(block) if wanted.stop is None else min(wanted.stop - place, len(block))
            if first < last:
                blocks.append(block[first:last])
            place = end
            if wanted.stop is not None and place >= wanted.stop:
                break
            if place > limit:
                raise _too_long(clip, max_seconds, max_seconds)
        if place and place <= wanted.start:
            raise AudioError(
                "beyond-end",
                f"{clip.uri} is {place / sample_rate:.3f} s long, the clip begins at "
                f"{clip.offset} s",
            )
        return _joined(blocks), sample_rate


def _mono(frames: Iterable[av.AudioFrame]) -> Iterator[np.ndarray]:
    planar = av.AudioResampler(format="fltp")
    for frame in frames:
        for converted in planar.resample(frame):
            yield converted.to_ndarray().mean(0, dtype=np.float32)


def _joined(blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.float32), *blocks])
