"""Bootstrap intervals of scores over questions and seeds, and paired tests.

Compared students answer the same questions, so their differences are resampled question by question
(paired bootstrap), which gives much narrower intervals than two separate ones. Seeds are resampled,
too, so that a difference in only one seed does not look significant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# Legend: S seeds, Q questions, T tasks.

RESAMPLES = 2000
LEVEL = 0.95

Draw = Mapping[str, np.ndarray]
"""Task -> indices of its questions, with repetition."""
Statistic = Callable[[np.ndarray, Draw], float]
"""(indices of seeds, draw of questions) -> a score."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its percentile interval. The ends are None if there are too few questions to
    estimate the variation."""

    value: float
    low: float | None
    high: float | None


def bootstrap(
    statistic: Statistic,
    num_questions: Mapping[str, int],
    *,
    num_seeds: int = 1,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile interval of a statistic over resampled seeds and questions.

    Args:
        statistic: Function of indices of seeds and, per task, of questions.
        num_questions: Task -> Q; each task keeps its number of questions.
        num_seeds: S; a single seed is not resampled.
        resamples: Number of resamples.
    """
    everything = {task: np.arange(count) for task, count in num_questions.items()}
    value = statistic(np.arange(num_seeds), everything)
    if all(count < 2 for count in num_questions.values()):
        return Interval(value, None, None)
    rng = np.random.default_rng(0)
    draws = [
        statistic(
            rng.integers(num_seeds, size=num_seeds),
            {task: rng.integers(count, size=count) for task, count in num_questions.items()},
        )
        for _ in range(resamples)
    ]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def interval_without_variation(
    values: Mapping[str, float], num_questions: Mapping[str, int], *, lowest: float = 0.0
) -> Interval:
    """Interval of the mean over tasks if the questions of each task all have the same score.

    Resampling such questions would give an interval of zero width. For one task whose answers are
    all right, or all wrong, this is the exact interval of Clopper & Pearson (1934). A difference of
    two students excludes 0 from the same number of questions on as `mcnemar`.

    Args:
        values: Task -> the score that each of its questions has.
        num_questions: Task -> number of its questions.
        lowest: Lowest possible score of a question; the highest is 1. A difference of two students
            has -1.
    """
    value = float(np.mean(list(values.values())))
    counts_T = np.array([num_questions[task] for task in values], dtype=float)
    values_T = np.array(list(values.values()))
    return Interval(
        value,
        max(lowest, value - _largest_sum(values_T - lowest, counts_T) / len(values)),
        min(1.0, value + _largest_sum(1 - values_T, counts_T) / len(values)),
    )


def _largest_sum(changes_T: np.ndarray, counts_T: np.ndarray) -> float:
    """The largest sum over tasks of p * change that the questions do not contradict.

    p is the probability that a question of the task differs by this change from those that were
    asked. That no question did must have at least the probability (1 - LEVEL) / 2. At the maximum,
    1 - p is proportional to count / change; p is 0 for tasks where that would exceed 1.
    """
    counts_T, changes_T = counts_T[changes_T > 0], changes_T[changes_T > 0]
    order = np.argsort(counts_T / changes_T)
    counts_T, changes_T = counts_T[order], changes_T[order]
    for active in range(len(counts_T), 0, -1):
        count_T, change_T = counts_T[:active], changes_T[:active]
        logs = (count_T * np.log(count_T / change_T)).sum()
        scale = math.exp((math.log((1 - LEVEL) / 2) - logs) / count_T.sum())
        absent_T = scale * count_T / change_T
        if absent_T[-1] < 1:
            return float((change_T * (1 - absent_T)).sum())
    return 0.0


def mcnemar(ours_Q: np.ndarray, theirs_Q: np.ndarray) -> float:
    """Two-sided p of McNemar's exact test (McNemar 1947) for equal accuracy of two students.

    Args:
        ours_Q: Whether the first student answered each question correctly.
        theirs_Q: The same for the second student.
    """
    ours_Q, theirs_Q = ours_Q.astype(bool), theirs_Q.astype(bool)
    gained = int((ours_Q & ~theirs_Q).sum())
    lost = int((~ours_Q & theirs_Q).sum())
    ways = sum(math.comb(gained + lost, count) for count in range(min(gained, lost) + 1))
    return min(1.0, 2 * ways / 2 ** (gained + lost))
