"""Per-dimension sums of a stream: they give its mean and deviation, and what a codec lost.

Every shard's commit marker carries its own sums, so statistics of a whole cache are an addition
over small files, and stay right as the cache grows.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from manifests.cache.encoded_frames import EncodedFrames
from manifests.streams.kinds import KINDS
from manifests.streams.specs import StreamSpec

BLOCK_FRAMES = 4096
"""Frames that are summed at once, so that a long clip's float64 copies stay small."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation of a stream over the frames of a cache."""

    mean_D: np.ndarray
    """float32."""
    std_D: np.ndarray
    """float32, > 0 (constant columns get 1)."""
    num_frames: int


@dataclass(slots=True)
class Sums:
    """Sums over frames, float64 per dimension."""

    num_frames: int
    total_D: np.ndarray
    square_D: np.ndarray
    lost_D: np.ndarray
    """Squared difference between the frames and what the codec kept, over valid frames."""
    max_lost: float
    """Largest difference in one value."""

    @classmethod
    def zero(cls, dim: int) -> Sums:
        """Sums over no frames."""
        return cls(0, np.zeros(dim), np.zeros(dim), np.zeros(dim), 0.0)

    @classmethod
    def of(cls, frames_TD: np.ndarray, kept: EncodedFrames) -> Sums:
        """Sums over one clip: its frames, and the same after the codec."""
        kept_TD = kept.decode()
        valid_frames = KINDS[kept.spec.kind].valid_frames
        sums = cls.zero(frames_TD.shape[1])
        for first in range(0, len(frames_TD), BLOCK_FRAMES):
            part_TD = frames_TD[first : first + BLOCK_FRAMES].astype(np.float64)
            lost_TD = (
                frames_TD[first : first + BLOCK_FRAMES] - kept_TD[first : first + BLOCK_FRAMES]
            ).astype(np.float64)
            if valid_frames is not None:
                lost_TD *= valid_frames(frames_TD[first : first + BLOCK_FRAMES])[:, None]
            sums.num_frames += len(part_TD)
            sums.total_D += part_TD.sum(0)
            sums.square_D += np.square(part_TD).sum(0)
            sums.lost_D += np.square(lost_TD).sum(0)
            sums.max_lost = max(sums.max_lost, float(np.abs(lost_TD).max()))
        return sums

    def add(self, other: Sums) -> None:
        """Adds another part's sums to these."""
        self.num_frames += other.num_frames
        self.total_D = self.total_D + other.total_D
        self.square_D = self.square_D + other.square_D
        self.lost_D = self.lost_D + other.lost_D
        self.max_lost = max(self.max_lost, other.max_lost)

    def statistics(self) -> Statistics:
        """Mean and standard deviation per column."""
        count = max(self.num_frames, 1)
        mean_D = self.total_D / count
        variance_D = (self.square_D / count - mean_D**2).clip(0)
        constant_D = variance_D <= 1e-12 + 1e-10 * mean_D**2
        std_D = np.where(constant_D, 1.0, np.sqrt(variance_D))
        return Statistics(mean_D.astype(np.float32), std_D.astype(np.float32), self.num_frames)

    def codec_loss(self, spec: StreamSpec) -> float:
        """How much the codec lost, as one number to hold against `Codec.max_loss`.

        Of physical values (features, curve): RMS error in standard deviations, averaged over
        columns. Of probabilities and salience: RMS error relative to the RMS value, over all
        columns.
        """
        if KINDS[spec.kind].is_physical:
            rms_D = np.sqrt(self.lost_D / max(self.num_frames, 1))
            return float((rms_D / self.statistics().std_D).mean())
        return float(np.sqrt(self.lost_D.sum() / max(self.square_D.sum(), 1e-12)))

    def to_json(self) -> dict[str, int | float | str]:
        """As marker fields; arrays in base64 of little-endian float64."""
        return {
            "num_frames": self.num_frames,
            "total": _pack(self.total_D),
            "square": _pack(self.square_D),
            "lost": _pack(self.lost_D),
            "max_lost": self.max_lost,
        }

    @classmethod
    def from_json(cls, fields: dict) -> Sums:
        """Reads what `to_json` wrote."""
        return cls(
            fields["num_frames"],
            _unpack(fields["total"]),
            _unpack(fields["square"]),
            _unpack(fields["lost"]),
            fields["max_lost"],
        )


def _pack(values_D: np.ndarray) -> str:
    return base64.b64encode(values_D.astype("<f8").tobytes()).decode()


def _unpack(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f8").copy()
