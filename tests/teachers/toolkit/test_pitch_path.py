"""The best path of a batch of clips is the one of each clip alone, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.stage1_gpu_side import old_path, salience
from teachers.toolkit import pitch_path
from teachers.toolkit.pitch_path import best_paths


@pytest.mark.parametrize("batch_bytes", [64 << 20, 200_000])
def test_a_batch_has_the_paths_of_its_clips(monkeypatch: pytest.MonkeyPatch, batch_bytes: int):
    """Frame by frame, as `best_path` at 652e439 found them; in stretches where memory is short."""
    monkeypatch.setattr(pitch_path, "BATCH_BYTES", batch_bytes)
    saliences = [salience(seed, frames) for seed, frames in enumerate((1, 130, 40, 61, 2, 41))]
    saliences.append(np.zeros((50, 360), np.float32))
    for salience_TB, path_T in zip(saliences, best_paths(saliences), strict=True):
        assert np.array_equal(path_T, old_path(salience_TB))


def test_a_pitch_at_the_edge_stays_within_the_bins():
    salience_TB = np.full((30, 360), 0.01, np.float32)
    salience_TB[:15, 0] = salience_TB[15:, 359] = 0.9
    (path_T,) = best_paths([salience_TB])
    assert path_T[:15].tolist() == [0] * 15
    assert path_T[15:].tolist() == [359] * 15
