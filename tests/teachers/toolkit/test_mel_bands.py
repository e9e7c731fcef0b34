"""Tests the mel filters against transformers, which follows librosa and torchaudio."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank

from teachers.toolkit.mel_bands import mel_bands


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("equal_area", [False, True])
@pytest.mark.parametrize(
    ("sample_rate", "bands", "lowest_hz", "highest_hz"),
    [(16_000, 128, 30.0, 8000.0), (22_050, 128, 30.0, 11_000.0), (16_000, 64, 0.0, 4000.0)],
)
def test_mel_bands_match_transformers(
    scale, equal_area: bool, sample_rate: int, bands: int, lowest_hz: float, highest_hz: float
):
    ours = mel_bands(
        sample_rate=sample_rate, fft=1024, bands=bands, lowest_hz=lowest_hz,
        highest_hz=highest_hz, scale=scale, equal_area=equal_area,
    )  # fmt: skip
    theirs = mel_filter_bank(
        num_frequency_bins=513, num_mel_filters=bands, min_frequency=lowest_hz,
        max_frequency=highest_hz, sampling_rate=sample_rate, mel_scale=scale,
        norm="slaney" if equal_area else None,
    )  # fmt: skip
    assert np.abs(ours - theirs).max() < 1e-3 * theirs.max()
