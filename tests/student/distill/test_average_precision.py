"""Tests average precision against a second implementation, a sum over all thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from student.distill.metrics import average_precision


def sum_over_thresholds(scores_N: np.ndarray, present_N: np.ndarray) -> float:
    """Computes scikit-learn's definition: the sum over thresholds of (R_n - R_n-1) * P_n."""
    total, recall_before = 0.0, 0.0
    for threshold in np.unique(scores_N)[::-1]:
        chosen_N = scores_N >= threshold
        hits = (chosen_N & present_N).sum()
        recall = hits / present_N.sum()
        total += (recall - recall_before) * hits / chosen_N.sum()
        recall_before = recall
    return total


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_with_ties_matches_the_sum_over_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores_N = rng.integers(0, 8, 60) / 8
    present_N = rng.random(60) < 0.3
    present_N[0] = True
    assert average_precision(scores_N, present_N) == pytest.approx(
        sum_over_thresholds(scores_N, present_N)
    )
