"""Tests for pooling frames and for joining the windows of long clips."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.stage1_gpu_side import old_pooled
from teachers.toolkit.windowing import join, pooled


@pytest.mark.parametrize("dim", [1, 2, 33, 1280])
@pytest.mark.parametrize("times", [1, 2, 3, 4, 5, 9])
def test_pooled_frames_equal_the_mean_of_each_group(dim: int, times: int):
    rng = np.random.default_rng(dim)
    for count in (1, 2, times, times + 1, 10 * times - 1, 10 * times + times // 2):
        frames_TD = rng.normal(size=(count, dim)).astype(np.float32)
        assert np.array_equal(pooled(frames_TD, times), old_pooled(frames_TD, times))


def test_join_in_blocks_equals_join_at_once(monkeypatch: pytest.MonkeyPatch):
    """The last window overlaps two others."""
    rng = np.random.default_rng(0)
    starts = [0, 30, 60, 65]
    overlapping = [(first, rng.normal(size=(40, 3)).astype(np.float32)) for first in starts]
    whole_TD = join(overlapping)
    assert len(whole_TD) == 105
    assert np.array_equal(whole_TD[:30], overlapping[0][1][:30])
    monkeypatch.setattr("teachers.toolkit.windowing.JOINED_FRAMES", 7)
    assert np.array_equal(join(overlapping), whole_TD)
