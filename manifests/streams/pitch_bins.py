"""The frequency grid of a pitch stream: the frequency of each bin of salience."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manifests.errors import UserError

# Legend: T frames, B bins.


@dataclass(frozen=True, slots=True, kw_only=True)
class PitchBins:
    """Bins of equal width on a logarithmic frequency axis."""

    lowest_hz: float
    """Frequency at the centre of bin 0."""
    cents_per_bin: float
    """Distance from one bin to the next; an octave is 1200 cents."""

    def __post_init__(self) -> None:
        if self.lowest_hz <= 0 or self.cents_per_bin <= 0:
            raise UserError(f"lowest_hz and cents_per_bin of a pitch grid must be positive: {self}")

    def hertz(self, bin_T: np.ndarray) -> np.ndarray:
        """Computes the frequency of each (fractional) bin, in Hz."""
        return self.lowest_hz * 2.0 ** (self.cents_per_bin * bin_T / 1200.0)

    def cents(self, num_bins: int) -> np.ndarray:
        """Computes cents_B: the centre of every bin, in cents above the lowest one."""
        return self.cents_per_bin * np.arange(num_bins)

    def bins_within(self, cents: float) -> int:
        """The number of bins in a distance in cents, rounded."""
        return round(cents / self.cents_per_bin)

    def peak(self, salience_TB: np.ndarray, *, within_cents: float = 80.0) -> np.ndarray:
        """Computes fractional bin_T: the mean of the bins around each peak, weighted by salience.

        CREPE refines its peak by four bins of 20 cents on each side (Kim et al. 2018); the same
        distance is used on every grid.
        """
        reach = self.bins_within(within_cents)
        index_TW = salience_TB.argmax(1)[:, None] + np.arange(-reach, reach + 1)
        inside_TW = (index_TW >= 0) & (index_TW < salience_TB.shape[1])
        index_TW = index_TW.clip(0, salience_TB.shape[1] - 1)
        weight_TW = np.take_along_axis(salience_TB, index_TW, 1) * inside_TW
        total_T = np.maximum(weight_TW.sum(1), 1e-12)
        return (weight_TW * index_TW).sum(1) / total_T


CREPE_BINS = PitchBins(lowest_hz=10.0 * 2.0 ** (1997.3794084376191 / 1200.0), cents_per_bin=20.0)
"""The grid of CREPE (Kim et al. 2018), the default of pitch streams."""
