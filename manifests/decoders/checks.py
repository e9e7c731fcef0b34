"""Checks of a clip's samples that need no teacher: silence, clipping, a wrong scale."""

from __future__ import annotations

import numpy as np

from manifests.decoders.collect import Samples
from manifests.errors import AudioError

FULL_SCALE = 0.999
RUN = 3
"""Number of adjacent samples at full scale that count as clipped; single ones are normal peaks."""
CLIPPED_SHARE = 0.001
"""A clip with a larger share of clipped samples is counted as `clipped`."""
SILENT_PEAK = 1e-4
"""A clip whose largest magnitude is below this (-80 dB) is counted as `silent`."""
OVER_RANGE = 8.0
"""A larger magnitude (18 dB above full scale) is counted as `over-range`."""
INTEGER_RANGE = 64.0
"""Samples of at least this magnitude are integers written as floats, and an error."""
OPPOSITE_POWER = 0.05
"""The mean of independent channels has 1 / channels of their power. Channels are counted as
opposite if their mean has less than this share of it."""


def clipped_share(samples: np.ndarray) -> float:
    """Computes the share of samples in flat tops at full scale."""
    full = np.abs(samples) >= FULL_SCALE
    if np.count_nonzero(full) < RUN:
        return 0.0
    inner = np.convolve(full, np.ones(RUN), mode="valid") == RUN
    flat = np.convolve(inner, np.ones(RUN), mode="full") > 0
    return float(flat.sum()) / len(samples)


def check(samples: Samples, wave: np.ndarray, peak: float) -> None:
    """Adds warnings about the content of a clip.

    Args:
        samples: The samples that are checked.
        wave: The clip's samples, finite and at least one.
        peak: The largest magnitude of a sample.

    Raises:
        AudioError: the samples are not in [-1, 1] but in the range of integers.
    """
    if peak >= INTEGER_RANGE:
        raise AudioError(
            "out-of-range",
            f"{samples.clip.uri} has samples of {peak:.0f}, expected up to 1: integers stored as "
            "floats; write the file again, divided by 32768 (or by its own full scale)",
        )
    if peak > OVER_RANGE:
        samples.warn("over-range", f"has samples of {peak:.1f}, expected up to 1")
    channels, (whole, mean) = samples.num_channels, samples.power
    if channels > 1 and mean < OPPOSITE_POWER / channels * whole:
        samples.warn(
            "opposite-phase",
            "has channels of opposite phase, which cancel in their mean; give only one channel",
        )
    elif peak < SILENT_PEAK:
        samples.warn("silent", "holds only silence")
    if peak >= FULL_SCALE and (share := clipped_share(wave)) > CLIPPED_SHARE:
        samples.warn("clipped", f"is clipped: {share:.1%} of its samples are at full scale")
