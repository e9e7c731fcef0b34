"""Loads the samples of a clip. Both stages use this module, so both get the same samples.

libsndfile reads the formats in which it can seek to the exact sample (WAV, FLAC, AIFF, AU, ...),
FFmpeg through PyAV all others (MP3, Ogg, Opus, M4A, WebM, ...). The format is detected from the
content of a file, never from its name or header alone.

Decoding a clip has three possible results. It succeeds, perhaps with warnings (damaged packets, a
truncated file, channels that cancel). The clip can never be used: `AudioError`, with a short,
stable reason that can be counted. Or its file cannot be reached at present: `StoreError`, which can
be retried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from av.error import FFmpegError

from manifests.clips import Clip
from manifests.decoders import checks, ffmpeg, headers, libsndfile
from manifests.decoders.collect import AudioWarning, Samples
from manifests.decoders.files import AudioFile, open_audio
from manifests.errors import AudioError

MAX_SECONDS = 3600.0
"""Maximum length of a decoded clip, unless the caller sets another."""


@dataclass(frozen=True, slots=True)
class Waveform:
    """Decoded audio at the file's own rate."""

    samples: np.ndarray
    """float32, mono (the mean of the channels), nominally in [-1, 1]."""
    sample_rate: int
    """Hz."""
    known_digest: str | None = None
    """The digest, if it is known; else it is computed where it is asked for: training needs none,
    and it takes a fifth of the time of decoding a FLAC file."""
    warnings: tuple[AudioWarning, ...] = ()
    """Faults of the audio that do not prevent decoding."""

    @property
    def digest(self) -> str:
        """BLAKE2b-128 of the rate and the samples: identifies the content, whatever its name."""
        if self.known_digest is not None:
            return self.known_digest
        digest = hashlib.blake2b(np.int64(self.sample_rate).tobytes(), digest_size=16)
        digest.update(self.samples.data)
        return digest.hexdigest()

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / self.sample_rate


def load(clip: Clip, sample_rate: int) -> np.ndarray:
    """The clip as float32 mono at a rate in Hz.

    Raises:
        AudioError: the audio cannot be used.
        StoreError: the file cannot be reached at present.
    """
    return resample(decode(clip), sample_rate)


def resample(wave: Waveform, sample_rate: int) -> np.ndarray:
    """The samples at another rate, by soxr's high-quality resampler (linear phase, no delay).

    Raises:
        AudioError: the clip is too short to have a sample at the lower rate.
    """
    if sample_rate == wave.sample_rate:
        return wave.samples
    samples = soxr.resample(wave.samples, wave.sample_rate, sample_rate, quality="HQ")
    if not len(samples):
        message = f"{wave.seconds:.2g} s are less than one sample at {sample_rate} Hz"
        raise AudioError("too-short", message)
    return samples


def decode(clip: Clip, *, max_seconds: float = MAX_SECONDS) -> Waveform:
    """Decodes a clip: from `offset` for `duration`, exact to the sample.

    `offset` is presentation time, as players show it. Only a stated `duration` limits a clip. If it
    is longer than the file, the clip ends with the file (counted as `short`); a clip that begins
    beyond the end is an error.

    Raises:
        AudioError: the file is missing or unreadable, the clip has no samples, samples that are
            not finite or in the range of integers, more than `max_seconds`, or a sample rate below
            1 kHz.
        StoreError: the file cannot be reached at present.
    """
    (wave,) = decode_many([clip], max_seconds=max_seconds)
    if isinstance(wave, AudioError):
        raise wave
    return wave


def decode_many(
    clips: Sequence[Clip], *, max_seconds: float = MAX_SECONDS
) -> list[Waveform | AudioError]:
    """Decodes clips; each file is opened, fetched and decoded once for all of its clips.

    The samples are those of `decode`. An error belongs to its clip alone.

    Raises:
        StoreError: a file cannot be reached at present.
    """
    by_uri: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        by_uri.setdefault(clip.uri, []).append(index)
    waves: dict[int, Waveform | AudioError] = {}
    for uri, indices in by_uri.items():
        clips_of_file = [clips[index] for index in indices]
        try:
            is_cut = any(clip.offset or clip.duration is not None for clip in clips_of_file)
            with open_audio(uri, whole=not is_cut) as file:
                collected = _read(file, uri, clips_of_file, max_seconds)
        except AudioError as error:
            waves |= dict.fromkeys(indices, error)
            continue
        waves |= {i: _finish(samples) for i, samples in zip(indices, collected, strict=True)}
    return [waves[index] for index in range(len(clips))]


def _read(file: AudioFile, uri: str, clips: Sequence[Clip], max_seconds: float) -> list[Samples]:
    """The clips by the first library that can read the file."""
    by_libsndfile = ""
    try:
        try:
            collected = libsndfile.read(file, clips, max_seconds)
            chunk, is_broken = headers.audio_chunk(file), headers.is_broken_page(file)
        except libsndfile.Unsupported as error:
            by_libsndfile = str(error)
            file.check(uri)
            # FFmpeg's decoder may stay open, and the file's position is its own then.
            chunk, is_broken = headers.audio_chunk(file), headers.is_broken_page(file)
            file.seek(0)
            collected = ffmpeg.read(file, clips, max_seconds)
    except (FFmpegError, ValueError) as error:
        if file.size == 0:
            raise AudioError("unreadable", f"{uri} is empty (0 bytes)") from None
        by_ffmpeg = getattr(error, "strerror", None) or error
        raise AudioError(
            "unreadable",
            f"{uri} cannot be decoded (libsndfile: {by_libsndfile}; FFmpeg: {by_ffmpeg})",
        ) from None
    finally:
        file.check(uri)
    for samples in collected:
        if is_broken and samples.is_cut_by_end:
            samples.warn(
                "truncated", "ends in the middle of a page; it is not known what is missing"
            )
        if chunk and chunk.trailing and samples.is_cut_by_end:
            samples.warn("trailing", f"has {chunk.trailing} bytes behind its audio, not decoded")
    return collected


def _finish(samples: Samples) -> Waveform | AudioError:
    """A clip's waveform with its warnings, or its error."""
    if samples.error is not None:
        return samples.error
    uri, wave = samples.clip.uri, samples.wave()
    if not len(wave):
        return AudioError("empty", f"{uri} has no samples")
    # The peak is NaN or infinite if any sample is.
    peak = float(np.maximum(wave.max(), -wave.min()))
    if not np.isfinite(peak):
        return AudioError("not-finite", f"{uri} has NaN or infinite samples")
    try:
        checks.check(samples, wave, peak)
    except AudioError as error:
        return error
    return Waveform(wave, samples.sample_rate, warnings=tuple(samples.warnings))
