"""Tests ridge regression, bootstrap and word errors against scipy and jiwer."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
from scipy import linalg, stats

from student.evaluation.analysis.linear_probes import PENALTIES, fit_ridges
from student.evaluation.questions import Question
from student.evaluation.scoring.intervals import bootstrap
from student.evaluation.scoring.scores import read_reply


@pytest.mark.parametrize(("rows", "width"), [(120, 12), (40, 90)])
def test_ridge_matches_the_least_squares_solution_of_scipy(rows: int, width: int) -> None:
    """Ridge regression is least squares with sqrt(penalty) times the identity as extra rows."""
    rng = np.random.default_rng(0)
    states_NH = rng.normal(3.0, rng.uniform(0.5, 4.0, width), (rows, width))
    target_ND = states_NH[:, :2] @ rng.normal(size=(2, 2)) + rng.normal(size=(rows, 2))
    (ridge,) = fit_ridges(states_NH, [target_ND], np.arange(rows))
    standard_NH = (states_NH - states_NH.mean(0)) / states_NH.std(0)
    solutions = [
        linalg.lstsq(
            np.vstack([standard_NH, np.sqrt(penalty) * np.eye(width)]),
            np.vstack([target_ND - target_ND.mean(0), np.zeros((width, 2))]),
        )[0]
        for penalty in PENALTIES
    ]
    distances = [np.abs(ridge.weight_HD - weight_HD).max() for weight_HD in solutions]
    assert min(distances) < 1e-8
    np.testing.assert_allclose(ridge.bias_D, target_ND.mean(0))


def test_bootstrap_interval_matches_scipy() -> None:
    values_Q = np.random.default_rng(1).random(80)
    ours = bootstrap(
        lambda seeds, draw: float(values_Q[draw["task"]].mean()), {"task": 80}, resamples=4000
    )
    theirs = stats.bootstrap(
        (values_Q,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == pytest.approx(values_Q.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.006)
    assert ours.high == pytest.approx(theirs.high, abs=0.006)


@pytest.mark.parametrize("seed", range(5))
def test_word_errors_match_jiwer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = np.array(["red", "green", "blue", "one", "two"])
    reference = " ".join(rng.choice(vocabulary, 12))
    reply = " ".join(rng.choice(vocabulary, 10))
    question = Question(
        id="q", kind="transcription", audio="a.wav", question="?", answer=reference, task="t"
    )
    answer = read_reply(question, reply)
    assert answer.errors / answer.words == pytest.approx(jiwer.wer(reference, reply))
