"""Per-dimension sums of a stream, from which its mean, deviation and codec loss are computed.

Every shard's commit marker contains its own sums, so the statistics of a whole cache are sums
over small files and stay correct as the cache grows.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from manifests.cache.encoded_frames import EncodedFrames, encode
from manifests.streams.codecs import CODECS
from manifests.streams.kinds import KINDS
from manifests.streams.specs import StreamSpec

BLOCK_FRAMES = 4096
"""Number of frames that are summed before the sum is added to the total. The order of all additions
therefore does not depend on the size of the processor's cache."""
CACHED_VALUES = 65_536
"""Number of values summed at once: their float64 copies fit into the processor's cache."""
MIN_ROWS = 8
LARGEST_COLUMNS = 8
"""Number of columns that are searched for the largest rounding error before any others."""
WIDE = 640
"""Columns from which sums are made in float32, a few rows at a time (`_ShiftedMoments`)."""


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
    """Squared difference between the frames and the decoded frames, over valid frames."""
    max_lost: float
    """Largest difference of a single value."""

    @classmethod
    def zero(cls, dim: int) -> Sums:
        """Sums over no frames."""
        return cls(0, np.zeros(dim), np.zeros(dim), np.zeros(dim), 0.0)

    @classmethod
    def from_frames(cls, frames_TD: np.ndarray, kept: EncodedFrames) -> Sums:
        """Computes the sums of one clip from its frames and its decoded frames.

        The frames are read once, a few rows at a time, so that they stay in the processor's cache.
        """
        num_frames, dim = frames_TD.shape
        rows = min(BLOCK_FRAMES, num_frames, max(MIN_ROWS, CACHED_VALUES // dim))
        moments = _ShiftedMoments(frames_TD, rows) if dim >= WIDE else _ExactMoments(dim, rows)
        loss = _Loss(kept.spec)
        values_TD, scale_D = kept.unscaled()
        kept_RD = np.empty((rows, dim), np.float32)
        for first in range(0, num_frames, BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, num_frames)
            for start in range(first, last, rows):
                block = slice(start, min(start + rows, last))
                moments.add(frames_TD[block])
                kept_TD = kept_RD[: block.stop - block.start]
                np.copyto(kept_TD, values_TD[block])
                np.multiply(kept_TD, scale_D, out=kept_TD)
                loss.add(frames_TD[block], kept_TD)
            moments.end_block()
        return cls.from_parts(frames_TD, kept, moments, loss)

    @classmethod
    def from_parts(
        cls,
        frames_TD: np.ndarray,
        kept: EncodedFrames,
        moments: _ShiftedMoments | _ExactMoments,
        loss: _Loss | _Watcher,
    ) -> Sums:
        """Combines the sums of a clip's parts."""
        total_D, square_D = moments.sums()
        lost_D = loss.lost_D
        if not (np.isfinite(square_D).all() and np.isfinite(lost_D).all()):
            # Squares of 1e19 and more are beyond float32.
            wide_TD = frames_TD.astype(np.float64)
            total_D, square_D = wide_TD.sum(0), np.square(wide_TD).sum(0)
            lost_D = np.square(wide_TD - kept.decode()).sum(0)
        return cls(len(frames_TD), total_D, square_D, lost_D, loss.max_lost)

    def add(self, other: Sums) -> None:
        """Adds another part's sums to these."""
        self.num_frames += other.num_frames
        self.total_D = self.total_D + other.total_D
        self.square_D = self.square_D + other.square_D
        self.lost_D = self.lost_D + other.lost_D
        self.max_lost = max(self.max_lost, other.max_lost)

    def statistics(self) -> Statistics:
        """Computes mean and standard deviation per column."""
        count = max(self.num_frames, 1)
        mean_D = self.total_D / count
        variance_D = (self.square_D / count - mean_D**2).clip(0)
        constant_D = variance_D <= 1e-12 + 1e-10 * mean_D**2
        std_D = np.where(constant_D, 1.0, np.sqrt(variance_D))
        return Statistics(mean_D.astype(np.float32), std_D.astype(np.float32), self.num_frames)

    def codec_loss(self, spec: StreamSpec) -> float:
        """The loss of the codec, as one number to compare with `Codec.max_loss`.

        For physical values (features, curve), it is the RMS error in standard deviations, averaged
        over columns. For probabilities and salience, it is the RMS error relative to the RMS value,
        over all columns.
        """
        if KINDS[spec.kind].is_physical:
            rms_D = np.sqrt(self.lost_D / max(self.num_frames, 1))
            return float((rms_D / self.statistics().std_D).mean())
        return float(np.sqrt(self.lost_D.sum() / max(self.square_D.sum(), 1e-12)))

    def to_json(self) -> dict[str, int | float | str]:
        """The fields of a marker; arrays in base64 of little-endian float64."""
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


class _ExactMoments:
    """Sums of frames and of their squares in float64, added row after row."""

    def __init__(self, dim: int, rows: int) -> None:
        self._total_D, self._square_D = np.zeros(dim), np.zeros(dim)
        self._part: tuple[np.ndarray, np.ndarray] | None = None
        self._wide_RD = np.empty((rows + 1, dim))

    def add(self, part_TD: np.ndarray) -> None:
        """Adds some rows to the sums of the current block."""
        total_D, square_D = self._part or (None, None)
        wide_TD = self._wide_RD[1 : len(part_TD) + 1]
        np.copyto(wide_TD, part_TD)
        total_D = self._added(len(part_TD), total_D)
        np.multiply(wide_TD, wide_TD, out=wide_TD)
        self._part = total_D, self._added(len(part_TD), square_D)

    def _added(self, rows: int, total_D: np.ndarray | None) -> np.ndarray:
        # NumPy adds along the first axis row by row, so the total so far goes in front of the rows.
        # (A single column is the exception, but a block of it is added in one piece.)
        if total_D is None:
            return self._wide_RD[1 : rows + 1].sum(0)
        self._wide_RD[0] = total_D
        return self._wide_RD[: rows + 1].sum(0)

    def end_block(self) -> None:
        """Adds the current block's sums to the total."""
        if self._part:
            self._total_D += self._part[0]
            self._square_D += self._part[1]
        self._part = None

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Computes (total_D, square_D)."""
        return self._total_D, self._square_D


class _ShiftedMoments:
    """The same for wide frames: float32 sums of a few rows, after subtracting an estimate of the
    mean.

    This is three times as fast. After the subtraction, the float32 error is 1e-7 of the deviation
    and not of the values, so constant columns are still detected.
    """

    def __init__(self, frames_TD: np.ndarray, rows: int) -> None:
        dim = frames_TD.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):
            self._shift_D = frames_TD[:rows].mean(0)
        self._frames = 0
        self._total_D, self._square_D = np.zeros(dim), np.zeros(dim)
        self._left_RD = np.empty((rows, dim), np.float32)

    def add(self, part_TD: np.ndarray) -> None:
        """Adds some rows."""
        left_TD = self._left_RD[: len(part_TD)]
        # The codec rejects values that are not finite; squares may overflow float32.
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(part_TD, self._shift_D, out=left_TD)
            self._total_D += left_TD.sum(0)
            self._square_D += _sum_of_squares(left_TD)
        self._frames += len(part_TD)

    def end_block(self) -> None:
        """Does nothing: every part is added immediately."""

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Computes (total_D, square_D)."""
        shift_D = self._shift_D.astype(np.float64)
        square_D = self._square_D + shift_D * (2 * self._total_D + self._frames * shift_D)
        return self._total_D + self._frames * shift_D, square_D


class _Loss:
    """The loss of a codec. Squares are float32, because only the first digits of a loss matter."""

    def __init__(self, spec: StreamSpec) -> None:
        self._valid_frames = KINDS[spec.kind].valid_frames
        self.lost_D = np.zeros(spec.dim)
        self.max_lost = 0.0

    def add(self, part_TD: np.ndarray, kept_TD: np.ndarray) -> None:
        """Adds some rows, and overwrites `kept_TD`."""
        lost_TD = np.subtract(part_TD, kept_TD, out=kept_TD)
        if self._valid_frames is not None:
            lost_TD *= self._valid_frames(part_TD)[:, None]
        self.max_lost = max(self.max_lost, float(lost_TD.max()), -float(lost_TD.min()))
        with np.errstate(over="ignore"):
            np.multiply(lost_TD, lost_TD, out=lost_TD)
            self.lost_D += lost_TD.sum(0)


def _sum_of_squares(part_TD: np.ndarray) -> np.ndarray:
    """The sum of squares per column, in float32; one pass over memory instead of two."""
    return np.einsum("td,td->d", part_TD, part_TD)


class _Watcher:
    """Computes the sums of wide frames while they are encoded."""

    def __init__(self, frames_TD: np.ndarray, spec: StreamSpec) -> None:
        rows = min(len(frames_TD), max(MIN_ROWS, CACHED_VALUES // spec.dim))
        self._frames_TD = frames_TD
        self.moments = _ShiftedMoments(frames_TD, rows)
        self.lost_D = np.zeros(spec.dim)
        self.max_lost = 0.0

    def add_frames(self, part_TD: np.ndarray) -> None:
        """See `EncodingWatcher`."""
        self.moments.add(part_TD)

    def add_lost(self, rest_TD: np.ndarray) -> None:
        """See `EncodingWatcher`."""
        self.lost_D += _sum_of_squares(rest_TD)

    def end(self, scale_D: np.ndarray) -> None:
        """See `EncodingWatcher`."""
        self.lost_D *= scale_D.astype(np.float64) ** 2
        self.max_lost = _largest_rounding_error(self._frames_TD, scale_D)


def _largest_rounding_error(frames_TD: np.ndarray, scale_D: np.ndarray) -> float:
    """The largest difference between frames and their multiples of `scale_D`.

    No error is larger than half a step, so the columns with the largest steps come first, and the
    others are not read once their half steps are smaller than an error of these.
    """
    order_D = np.argsort(-scale_D, kind="stable")
    largest, first, columns = np.float32(0), 0, LARGEST_COLUMNS
    while first < len(order_D):
        chosen_C = order_D[first : first + columns]
        if scale_D[chosen_C[0]] / 2 <= largest:
            break
        steps_C = scale_D[chosen_C]
        ratio_TC = frames_TD[:, chosen_C] / np.where(steps_C > 0, steps_C, np.float32(1))
        rest_C = np.abs(ratio_TC - np.rint(ratio_TC)).max(0)
        largest = max(largest, (rest_C * steps_C).max())
        first, columns = first + columns, 4 * columns
    return float(largest)


def encode_and_sum(frames_TD: np.ndarray, spec: StreamSpec) -> tuple[EncodedFrames, Sums]:
    """Encodes one clip's frames as the cache stores them, and computes their sums.

    If the codec supports it, wide frames are read from memory twice instead of four times.

    Raises:
        ValueError: see `manifests.cache.encoded_frames.encode`.
    """
    frames_TD = np.asarray(frames_TD)
    is_watched = spec.dim >= WIDE and CODECS[spec.codec].encode_watched is not None
    if (
        not is_watched
        or frames_TD.ndim != 2
        or frames_TD.shape[1] != spec.dim
        or not frames_TD.size
    ):
        encoded = encode(frames_TD, spec)
        return encoded, Sums.from_frames(frames_TD, encoded)
    watcher = _Watcher(frames_TD, spec)
    encoded = encode(frames_TD, spec, watcher)
    return encoded, Sums.from_parts(frames_TD, encoded, watcher.moments, watcher)


def _pack(values_D: np.ndarray) -> str:
    return base64.b64encode(values_D.astype("<f8").tobytes()).decode()


def _unpack(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f8").copy()
