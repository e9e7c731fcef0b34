"""Builds the two streams of a pitch expert on CREPE's bins: salience and f0, with voicing."""

from __future__ import annotations

import numpy as np

from manifests.streams.pitch_bins import CREPE_BINS
from manifests.streams.specs import StreamSpec
from teachers.toolkit.pitch_path import best_paths

# Legend: T frames, B pitch bins, W bins around a path.

BINS = 360
"""CREPE's bins of 20 cents from 31.7 Hz."""


def pitch_streams(*, hop_s: float, window_s: float) -> tuple[StreamSpec, StreamSpec]:
    """Describes `salience`, with the voicing as last column, and `f0`.

    Args:
        hop_s: Seconds from one frame to the next; the first is centred at 0.
        window_s: Seconds that a frame is computed from.
    """
    return (
        StreamSpec(
            name="salience", kind="pitch", dim=BINS + 1, start_s=0.0, hop_s=hop_s,
            window_s=window_s, codec="pitch",
        ),
        StreamSpec(
            name="f0", kind="curve", dim=2, start_s=0.0, hop_s=hop_s, window_s=window_s,
            codec="fp16", names=("f0", "voicing"), unit="Hz, probability",
        ),
    )  # fmt: skip


def frequency(salience_TB: np.ndarray, path_T: np.ndarray | None = None) -> np.ndarray:
    """Computes f0 in Hz: the mean of nine bins around the best path, weighted by salience."""
    if path_T is None:
        (path_T,) = best_paths([salience_TB])
    bins_TW = (path_T[:, None] + np.arange(-4, 5)).clip(0, salience_TB.shape[1] - 1)
    weight_TW = np.take_along_axis(salience_TB, bins_TW, 1) + 1e-9
    bin_T = (bins_TW * weight_TW).sum(1) / weight_TW.sum(1)
    return CREPE_BINS.hertz(bin_T)
