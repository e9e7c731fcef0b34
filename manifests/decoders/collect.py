"""Assembles the samples of clips from the blocks that a decoder yields with their positions.

A decoder makes one pass through a file and offers every block to the requested clips. Time without
a block is filled with silence; where two blocks overlap, the first one is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from manifests.clips import Clip
from manifests.errors import AudioError

MIN_RATE = 1_000
"""Hz. A lower rate comes from a damaged header in practice."""
STATED_TOLERANCE_S = 0.1
"""A clip that is shorter than its stated duration by more than this is counted as `short`."""
GAP_TOLERANCE_S = 0.04
"""Shorter silence is not counted as `gap`, e.g. an encoder's delay at the start of a video."""
MISSING_TOLERANCE_S = 0.1
"""A file that ends earlier than its header says by more than this is counted as `truncated`."""


@dataclass(frozen=True, slots=True)
class AudioWarning:
    """A fault of audio that could nevertheless be decoded."""

    kind: str
    """damaged, truncated, trailing, short, gap, changing-rate, opposite-phase, over-range,
    clipped or silent: a short, stable name for counting."""
    message: str


@dataclass(slots=True)
class Samples:
    """The samples of one clip while they are collected, at the file's own rate."""

    clip: Clip
    sample_rate: int
    max_seconds: float
    warnings: list[AudioWarning] = field(default_factory=list)
    error: AudioError | None = None
    start: int = 0
    stop: int | None = None
    """First sample and end (exclusive), counted from the file's start; None stands for the file's
    end."""
    end: int = 0
    """End of the samples that were collected so far."""
    blocks: list[np.ndarray] = field(default_factory=list)
    power: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Sums of the channels' mean square, and of the square of their mean."""
    num_channels: int = 1

    is_cut_by_end: bool = False
    """Whether the clip extends to the end of the file."""

    def __post_init__(self) -> None:
        rate, clip = self.sample_rate, self.clip
        if rate < MIN_RATE:
            self.error = AudioError(
                "bad-rate", f"{clip.uri} says {rate} Hz; expected {MIN_RATE} or more"
            )
            return
        self.start = self.end = round(clip.offset * rate)
        if clip.duration is not None:
            self.stop = self.start + max(1, round(clip.duration * rate))
            self._limit(self.stop)

    @property
    def is_done(self) -> bool:
        """Whether no more samples are needed."""
        return self.error is not None or (self.stop is not None and self.end >= self.stop)

    def add(self, position: int, mono: np.ndarray, power: tuple[int, float, float]) -> None:
        """Takes the part of a block that belongs to the clip.

        Args:
            position: Position of the block's first sample, from the file's start.
            mono: The mean over the channels, float32.
            power: Channels, mean square over the channels, mean square of `mono`.
        """
        last = position + len(mono) if self.stop is None else min(position + len(mono), self.stop)
        if self.is_done or position + len(mono) <= self.end:
            return
        self._limit(last)
        first = max(position, self.end)
        gap = (first if self.stop is None else min(first, self.stop)) - self.end
        if self.error is not None:
            return
        if gap > 0:
            self.blocks.append(np.zeros(gap, np.float32))
            where, seconds = self.end / self.sample_rate, gap / self.sample_rate
            if seconds > GAP_TOLERANCE_S:
                self.warn("gap", f"has no audio from {where:.3f} s for {seconds:.3f} s: silence")
            self.end += gap
        if first < last:
            self.blocks.append(mono[first - position : last - position])
            self.end = last
            channels, whole, mean = power
            self.num_channels = max(self.num_channels, channels)
            self.power[0] += whole * (last - first)
            self.power[1] += mean * (last - first)

    def wave(self) -> np.ndarray:
        """The samples, float32; a clip that came in one piece is not copied."""
        if len(self.blocks) == 1:
            (block,) = self.blocks
            is_whole = block.base is None or 2 * block.nbytes >= getattr(block.base, "nbytes", 0)
            if block.dtype == np.float32 and block.flags.c_contiguous and is_whole:
                return block
        return np.concatenate([np.empty(0, np.float32), *self.blocks])

    def warn(self, kind: str, message: str) -> None:
        """Adds a warning."""
        self.warnings.append(AudioWarning(kind, f"{self.clip.uri} {message}"))

    def finish(self, length: int, missing_seconds: float) -> None:
        """Finishes the clip at the end of the file.

        Args:
            length: Number of samples in the file; ignored for a clip that is done.
            missing_seconds: Audio that is missing after them, according to the file's header.
        """
        if self.is_done:
            return
        rate = self.sample_rate
        self.is_cut_by_end = True
        if length and self.start >= length:
            self.error = AudioError(
                "beyond-end",
                f"{self.clip.uri} is {length / rate:.3f} s long, the clip begins at "
                f"{self.clip.offset} s",
            )
        elif not length:
            self.error = AudioError("empty", f"{self.clip.uri} has no samples")
        if missing_seconds > MISSING_TOLERANCE_S:
            self.warn(
                "truncated",
                f"ends after {length / rate:.3f} s, {missing_seconds:.3f} s before what its header "
                "says",
            )
        elif self.stop is not None and (self.stop - self.end) / rate > STATED_TOLERANCE_S:
            self.warn(
                "short",
                f"gives {(self.end - self.start) / rate:.3f} s of the {self.clip.duration:.3f} s "
                "that are stated",
            )

    def _limit(self, stop: int) -> None:
        if stop - self.start > self.max_seconds * self.sample_rate:
            self.blocks.clear()
            self.error = AudioError(
                "too-long",
                f"{self.clip.uri}: {(stop - self.start) / self.sample_rate:.0f} s or more, the "
                f"limit is {self.max_seconds:.0f} s; cut it into clips by offset and duration in "
                "the manifest, or raise max_clip_seconds",
            )


def mix(channels_CN: np.ndarray) -> tuple[np.ndarray, tuple[int, float, float]]:
    """The mean over the channels in float32, and the power that `Samples.add` expects."""
    return with_power(channels_CN.mean(0, dtype=np.float32), channels_CN)


def with_power(
    mono: np.ndarray, channels: np.ndarray
) -> tuple[np.ndarray, tuple[int, float, float]]:
    """The power of a mix. The channels are the shorter axis."""
    count = channels.size // max(len(mono), 1)
    if count <= 1:
        return mono, (1, 0.0, 0.0)
    whole = float(np.vdot(channels, channels)) / channels.size
    return mono, (count, whole, float(np.vdot(mono, mono)) / len(mono))
