"""Reads a container's audio track: its choice, its stated length, and its frames as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av
import numpy as np
import soxr
from av.container import InputContainer
from av.stream import Disposition

from manifests.decoders.files import AudioFile

HEADER_LENGTH = ("mov,", "matroska,", "asf", "avi", "wav", "aiff", "flac", "caf", "w64", "au")
"""Containers whose length is stated in the file, not estimated from the bit rate or last packet."""


def default_track(tracks: Iterable[av.AudioStream]) -> av.AudioStream:
    """The track that the ffmpeg command selects: flagged default, then most channels, then
    first."""
    return max(
        tracks,
        key=lambda track: (
            bool(track.disposition & Disposition.default),
            track.codec_context.channels,
        ),
    )


def even_frames(
    frames: Iterable[tuple[av.AudioFrame, int]],
) -> Iterator[tuple[float | None, np.ndarray, int]]:
    """Yields time, samples (channels, N) and rate of frames, given with their numbers of samples
    that are not padding.

    Consecutive frames with another rate than the first are joined, so that they are resampled
    together.
    """
    first, run, began = 0, [], None
    for frame, count in frames:
        first = first or frame.sample_rate
        block_CN = _to_float(frame)[:, :count]
        if run and (frame.sample_rate, len(block_CN)) != (run[0][1], len(run[0][0])):
            yield began, np.concatenate([part for part, _ in run], 1), run[0][1]
            run = []
        if frame.sample_rate == first:
            yield frame.time, block_CN, first
            continue
        began = began if run else frame.time
        run.append((block_CN, frame.sample_rate))
    if run:
        yield began, np.concatenate([part for part, _ in run], 1), run[0][1]


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    """The frame's samples as float32 in [-1, 1], (channels, N), equal to those of FFmpeg's swr."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = np.ascontiguousarray(values.reshape(frame.samples, -1).T)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(2 ** (8 * values.dtype.itemsize - 1))
    return values.astype(np.float32, copy=False)


def resample(block_CN: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Samples (channels, N) at another rate."""
    resampled = soxr.resample(np.ascontiguousarray(block_CN.T), rate, target, quality="HQ")
    return np.ascontiguousarray(resampled.T)


def stated_seconds(container: InputContainer, *, is_counted: bool) -> float | None:
    """The track's length according to the header; None if it is only an estimate."""
    track = default_track(container.streams.audio)
    name = container.format.name
    if name != "mp3" and not name.startswith(HEADER_LENGTH):
        return None
    if name == "mp3" and not is_counted:
        return None
    if track.duration is not None and track.time_base is not None:
        return float(track.duration * track.time_base)
    if container.duration is None or container.streams.video:
        return None
    return container.duration / av.time_base


def states_frames(file: AudioFile) -> bool:
    """Whether an MP3 file's first frame states the number of frames; leaves the file at its
    start."""
    head, tag = file.peek(0, 10), 0
    if head[:3] == b"ID3" and len(head) == 10:
        tag = 10 + sum(byte << s for byte, s in zip(head[6:], (21, 14, 7, 0), strict=True))
    return any(mark in file.peek(tag, 1024) for mark in (b"Xing", b"Info", b"VBRI"))
