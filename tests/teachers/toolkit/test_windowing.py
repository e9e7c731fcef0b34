"""Averaging frames all at once gives the means of each group, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.stage1_gpu_side import old_pooled
from teachers.toolkit.windowing import pooled


@pytest.mark.parametrize("dim", [1, 2, 33, 1280])
@pytest.mark.parametrize("times", [1, 2, 3, 4, 5, 9])
def test_means_are_those_of_each_group(dim: int, times: int):
    rng = np.random.default_rng(dim)
    for count in (1, 2, times, times + 1, 10 * times - 1, 10 * times + times // 2):
        frames_TD = rng.normal(size=(count, dim)).astype(np.float32)
        assert np.array_equal(pooled(frames_TD, times), old_pooled(frames_TD, times))
