"""Tests that the word error rate of the report matches jiwer."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest

from pipeline.report.words import error_rate


@pytest.mark.parametrize("seed", range(20))
def test_word_error_rate_matches_jiwer(seed: int):
    rng = np.random.default_rng(seed)
    reference, transcript = (
        " ".join(rng.choice(["one", "two", "three", "four"], int(rng.integers(1, 15))))
        for _ in range(2)
    )
    assert error_rate(reference, transcript) == pytest.approx(jiwer.wer(reference, transcript))
