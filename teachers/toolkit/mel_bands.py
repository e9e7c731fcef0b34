"""Triangular filters on a mel scale, linear in hertz as in librosa and torchaudio."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

# Legend: F frequency bins of a spectrum, M bands.

_SLANEY_CORNER_HZ, _SLANEY_CORNER_MEL = 1000.0, 15.0
_SLANEY_STEP = np.log(6.4) / 27


@functools.cache
def mel_bands(
    *, sample_rate: int, fft: int, bands: int, lowest_hz: float, highest_hz: float,
    scale: Literal["htk", "slaney"], equal_area: bool = False,
) -> np.ndarray:  # fmt: skip
    """Computes (F, M) float32 filters for magnitudes or powers of `fft` // 2 + 1 bins.

    Args:
        sample_rate: In Hz.
        fft: Length of the transform.
        bands: Number of filters.
        lowest_hz: Start of the first filter.
        highest_hz: End of the last filter.
        scale: `htk` is 2595 log10(1 + f / 700); `slaney` is linear to 1 kHz, then 27 mel per
            factor 6.4.
        equal_area: Whether each filter is divided by half its width in hertz (Slaney's norm).
    """
    to_mel, to_hertz = (_htk, _from_htk) if scale == "htk" else (_slaney, _from_slaney)
    ends = to_mel(np.array([lowest_hz, highest_hz]))
    edges = to_hertz(np.linspace(ends[0], ends[1], bands + 2))
    bins_F = np.linspace(0, sample_rate / 2, fft // 2 + 1)[:, None]
    rising_FM = (bins_F - edges[:-2]) / np.diff(edges)[:-1]
    falling_FM = (edges[2:] - bins_F) / np.diff(edges)[1:]
    filters_FM = np.maximum(0, np.minimum(rising_FM, falling_FM))
    if equal_area:
        filters_FM *= 2 / (edges[2:] - edges[:-2])
    return filters_FM.astype(np.float32)


def _htk(hertz: np.ndarray) -> np.ndarray:
    return 2595 * np.log10(1 + hertz / 700)


def _from_htk(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def _slaney(hertz: np.ndarray) -> np.ndarray:
    above = _SLANEY_CORNER_MEL + np.log(np.maximum(hertz, 1) / _SLANEY_CORNER_HZ) / _SLANEY_STEP
    return np.where(hertz < _SLANEY_CORNER_HZ, 3 * hertz / 200, above)


def _from_slaney(mel: np.ndarray) -> np.ndarray:
    above = _SLANEY_CORNER_HZ * np.exp(_SLANEY_STEP * (mel - _SLANEY_CORNER_MEL))
    return np.where(mel < _SLANEY_CORNER_MEL, mel * 200 / 3, above)
