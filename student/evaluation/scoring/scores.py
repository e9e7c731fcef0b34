"""Computes accuracy, macro F1 and word error rate of answers, by task.

The score of a task is one number, where higher is better: accuracy for choices and labels, one
minus the word error rate (at least 0) for transcriptions. Each question contributes separately, so
that scores can be resampled by question. Every number is finite: for a reference without words (a
note sign, silence), every word of the reply is an error, and an empty reply is correct.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from student.evaluation.questions import Question
from student.evaluation.scoring.extraction import extract_choice, extract_label
from student.evaluation.scoring.intervals import (
    RESAMPLES,
    Draw,
    Interval,
    bootstrap,
    interval_without_variation,
)
from student.text import answer_key, normalise, split_words

# Legend: S seeds, Q questions.


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed and scored reply."""

    question: Question
    reply: str
    extracted: str | None
    """Answer of the reply; None is a parse failure. For a transcription, its normal form."""
    errors: int
    """Wrong words of a transcription (substituted, missing, added); else 0 or 1."""
    words: int
    """Words of the reference transcription; else 1."""
    cut: bool = False
    """Whether the reply ended at the token limit."""

    @property
    def right(self) -> bool:
        """Whether it has no errors."""
        return self.errors == 0


def read_reply(question: Question, reply: str, *, cut: bool = False) -> Answer:
    """Parses and scores one reply.

    A label without `choices` must equal the answer, ignoring case and punctuation.
    """
    if question.kind == "transcription":
        return _read_transcription(question, reply, cut)
    if question.kind == "choice":
        extracted = extract_choice(reply, question.choices)
    elif question.choices:
        extracted = extract_label(reply, question.choices)
    else:
        extracted = normalise(reply) or reply.strip() or None
    right = extracted is not None and _same(extracted, question.answer)
    return Answer(question, reply, extracted, int(not right), 1, cut)


def _read_transcription(question: Question, reply: str, cut: bool) -> Answer:
    reply_words, reference = split_words(reply), split_words(question.answer)
    if reference:
        counts = jiwer.process_words(" ".join(reference), " ".join(reply_words))
        errors = counts.substitutions + counts.deletions + counts.insertions
    else:
        errors = len(reply_words)
    is_failure = bool(reference) and not reply_words
    extracted = None if is_failure else " ".join(reply_words)
    return Answer(question, reply, extracted, errors, len(reference), cut)


def _same(extracted: str, answer: str) -> bool:
    return answer_key(extracted) == answer_key(answer)


def score_answers(runs: Sequence[Sequence[Answer]], *, resamples: int = RESAMPLES) -> dict:
    """Scores the answers of one student, or of several seeds, by task and over tasks.

    Args:
        runs: Per seed the answers, to the same questions in the same order.
        resamples: Resamples of the bootstrap.

    Returns:
        `tasks`: task -> kind, n, metric, score with low and high (None for a single question, whose
        interval is unknown), parse_failures, cut (share of replies truncated at the token limit),
        chance (of guessing one of the choices; 0 without choices), majority (of always giving the
        most common answer), macro_f1 or word_error_rate; `mean`: the mean score over tasks, with
        low and high.
    """
    tasks = {
        task: _score_task([[run[place] for place in places] for run in runs], resamples)
        for task, places in _by_task(runs[0]).items()
    }
    mean = score_interval(task_tables(runs), resamples=resamples)
    return {"tasks": tasks, "mean": {"score": mean.value, "low": mean.low, "high": mean.high}}


def _by_task(answers: Sequence[Answer]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        places.setdefault(answer.question.task, []).append(place)
    return places


def _score_task(runs: list[list[Answer]], resamples: int) -> dict:
    questions = [answer.question for answer in runs[0]]
    kind = questions[0].kind
    failures = np.mean([[answer.extracted is None for answer in run] for run in runs])
    ((errors_SQ, words_Q),) = task_tables(runs).values()
    interval = score_interval({questions[0].task: (errors_SQ, words_Q)}, resamples=resamples)
    numbers = {
        "kind": kind,
        "metric": "1 - word error rate" if kind == "transcription" else "accuracy",
        "n": len(questions),
        "score": interval.value,
        "low": interval.low,
        "high": interval.high,
        "by_seed": [pooled_score(errors_Q[None], words_Q) for errors_Q in errors_SQ],
        "parse_failures": float(failures),
        "cut": float(np.mean([[answer.cut for answer in run] for run in runs])),
        "chance": float(np.mean([1 / len(q.choices) if q.choices else 0 for q in questions])),
    }
    if kind == "transcription":
        rate = errors_SQ.sum() / max(words_Q.sum() * len(runs), 1)
        return numbers | {"majority": 0.0, "word_error_rate": float(rate)}
    answers = [question.answer for question in questions]
    f1 = [macro_f1(answers, [answer.extracted for answer in run]) for run in runs]
    commonest = Counter(map(answer_key, answers)).most_common(1)[0][1]
    return numbers | {"majority": commonest / len(answers), "macro_f1": float(np.mean(f1))}


Table = tuple[np.ndarray, np.ndarray]
"""errors_SQ and words_Q of one task."""


def task_tables(runs: Sequence[Sequence[Answer]]) -> dict[str, Table]:
    """Task -> the data of its score.

    Args:
        runs: Per seed the answers, to the same questions in the same order.
    """
    tables = {}
    for task, places in _by_task(runs[0]).items():
        errors_SQ = np.array([[run[place].errors for place in places] for run in runs])
        tables[task] = errors_SQ, np.array([runs[0][place].words for place in places])
    return tables


def mean_score(tables: Mapping[str, Table], seeds: np.ndarray, draw: Draw) -> float:
    """Mean over tasks of the score on some seeds and, per task, on some questions."""
    scores = [
        pooled_score(errors_SQ[seeds][:, draw[task]], words_Q[draw[task]])
        for task, (errors_SQ, words_Q) in tables.items()
    ]
    return float(np.mean(scores))


def score_interval(tables: Mapping[str, Table], *, resamples: int) -> Interval:
    """Mean score over tasks with its interval."""
    counts = {task: len(words_Q) for task, (_, words_Q) in tables.items()}
    num_seeds = len(next(iter(tables.values()))[0])
    interval = bootstrap(
        functools.partial(mean_score, tables), counts, num_seeds=num_seeds, resamples=resamples
    )
    if _has_width(interval):
        return interval
    return interval_without_variation(_pooled_scores(tables), counts)


def paired_interval(
    ours: Mapping[str, Table], theirs: Mapping[str, Table], *, resamples: int
) -> Interval:
    """Mean score over tasks of one student minus another's, with its interval.

    Both answered the same questions and are resampled jointly.
    """
    assert ours.keys() == theirs.keys(), "the same tasks"

    def difference(seeds: np.ndarray, draw: Draw) -> float:
        return mean_score(ours, seeds, draw) - mean_score(theirs, seeds, draw)

    counts = {task: len(words_Q) for task, (_, words_Q) in ours.items()}
    num_seeds = len(next(iter(ours.values()))[0])
    interval = bootstrap(difference, counts, num_seeds=num_seeds, resamples=resamples)
    if _has_width(interval):
        return interval
    minus = _pooled_scores(theirs)
    changes = {task: score - minus[task] for task, score in _pooled_scores(ours).items()}
    return interval_without_variation(changes, counts, lowest=-1.0)


def _has_width(interval: Interval) -> bool:
    """Whether the resamples differ, or there are too few questions for an interval."""
    return interval.low is None or interval.high is None or interval.high - interval.low > 1e-9


def _pooled_scores(tables: Mapping[str, Table]) -> dict[str, float]:
    return {task: pooled_score(errors_SQ, words_Q) for task, (errors_SQ, words_Q) in tables.items()}


def pooled_score(errors_SQ: np.ndarray, words_Q: np.ndarray) -> float:
    """1 - errors per word, at least 0; equals the accuracy if every answer is one word. If no
    reference has words, the score is 0 if any reply has words, else 1."""
    return max(0.0, 1 - float(errors_SQ.sum() / max(words_Q.sum() * len(errors_SQ), 1)))


def macro_f1(answers: Sequence[str], extracted: Sequence[str | None]) -> float:
    """F1 averaged over the classes that are the answer of some question. Parse failures reduce
    recall but no precision."""
    pairs = [
        (answer_key(answer), answer_key(label) if label is not None else None)
        for answer, label in zip(answers, extracted, strict=True)
    ]
    hits = Counter(answer for answer, label in pairs if answer == label)
    named = Counter(label for _, label in pairs)
    expected = Counter(answer for answer, _ in pairs)
    scores = [2 * hits[label] / (named[label] + expected[label]) for label in sorted(expected)]
    return float(np.mean(scores))
