"""Tests that the best pitch paths of a batch equal those of single clips bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.stage1_gpu_side import old_path, salience
from teachers.toolkit import pitch_path
from teachers.toolkit.pitch_path import best_paths


@pytest.mark.parametrize("batch_bytes", [64 << 20, 200_000])
def test_best_paths_of_a_batch_equal_those_of_single_clips(
    monkeypatch: pytest.MonkeyPatch, batch_bytes: int
):
    """The reference is `best_path` of commit 652e439; a small limit splits the batch."""
    monkeypatch.setattr(pitch_path, "BATCH_BYTES", batch_bytes)
    saliences = [salience(seed, frames) for seed, frames in enumerate((1, 130, 40, 61, 2, 41))]
    saliences.append(np.zeros((50, 360), np.float32))
    for salience_TB, path_T in zip(saliences, best_paths(saliences), strict=True):
        assert np.array_equal(path_T, old_path(salience_TB))


def test_path_at_the_edge_stays_within_the_bins():
    salience_TB = np.full((30, 360), 0.01, np.float32)
    salience_TB[:15, 0] = salience_TB[15:, 359] = 0.9
    (path_T,) = best_paths([salience_TB])
    assert path_T[:15].tolist() == [0] * 15
    assert path_T[15:].tolist() == [359] * 15
