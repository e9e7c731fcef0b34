"""Helpers for the tests of evaluations: question files, and the interval of a mean."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from student.evaluation.question_files import KEYS
from student.evaluation.questions import Question, absolute
from student.evaluation.scoring.intervals import RESAMPLES, Draw, Interval, bootstrap


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Writes a file for `read_questions`, with absolute paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for question in questions:
            row = {name: getattr(question, name) for name in KEYS}
            row["audio"] = absolute(question.audio)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def mean_interval(values_SQ: np.ndarray, *, resamples: int = RESAMPLES) -> Interval:
    """Returns the mean of per-question values with its interval; one row per seed."""

    def mean(seeds: np.ndarray, draw: Draw) -> float:
        return float(values_SQ[seeds][:, draw["all"]].mean())

    counts = {"all": values_SQ.shape[1]}
    return bootstrap(mean, counts, num_seeds=len(values_SQ), resamples=resamples)
