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

# Legend: S seeds, Q questions.

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


def boundary_interval(value: float, count: int) -> tuple[float, float]:
    """The exact interval (Clopper & Pearson 1934) of a share that is 0 or 1, for which resampling
    would give an interval of zero width."""
    reach = ((1 - LEVEL) / 2) ** (1 / count)
    return (reach, 1.0) if value else (0.0, 1 - reach)


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
