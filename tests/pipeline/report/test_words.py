"""Tests that the word error rate of the report matches jiwer."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest

from pipeline.report.words import error_rate, units
from student.text import split_words


@pytest.mark.parametrize("seed", range(20))
def test_word_error_rate_matches_jiwer(seed: int):
    rng = np.random.default_rng(seed)
    reference, transcript = (
        " ".join(rng.choice(["one", "two", "three", "four"], int(rng.integers(1, 15))))
        for _ in range(2)
    )
    assert error_rate(reference, transcript) == pytest.approx(jiwer.wer(reference, transcript))


@pytest.mark.parametrize(
    "text", ["Bonjour, comment allez-vous?", "- Est-ce qu'il vient ? -", "well-known - yes", "a--b"]
)
def test_words_are_those_of_the_scores_of_students(text: str):
    assert units(text) == split_words(text.casefold())
