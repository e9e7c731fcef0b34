"""`coat-student eval`: students answer a file of questions; scores, and students side by side.

Every student's scores lie in its own folder (RUN/eval/NAME.json, with every reply beside it in
NAME.answers.jsonl); who is compared with whom is decided afterwards, from those files.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from manifests.errors import UserError
from student.evaluation.answering import QuestionRunner
from student.evaluation.questions import Question
from student.evaluation.scoring.intervals import mcnemar
from student.evaluation.scoring.scores import (
    Answer,
    paired_interval,
    read_reply,
    score_answers,
    task_tables,
)


def evaluate(
    run: str | Path,
    questions: Sequence[Question],
    name: str,
    *,
    batch_size: int = 16,
    blind: bool = False,
) -> dict:
    """One student's answers to a set of questions, written to RUN/eval/NAME.json.

    Args:
        run: A run, or a plain checkpoint (the arm `base`).
        questions: With answers.
        name: Of the set of questions.
        batch_size: Questions per forward pass.
        blind: Ask without audio: what can be guessed from the questions.

    Returns:
        `arm`, `seed`, `questions`, and the scores (see `score_answers`).
    """
    examinee = QuestionRunner(run, batch_size=batch_size)
    change = examinee.without_audio if blind else None
    replies = examinee.replies(questions, change=change, what=str(run))
    answers = [read_reply(*pair) for pair in zip(questions, replies, strict=True)]
    recipe = examinee.trained.recipe
    is_run = (Path(run) / "recipe.yaml").is_file()
    report = {
        "name": name,
        "arm": recipe.arm if is_run else "base",
        "seed": recipe.seed,
        "blind": blind,
        "questions": len(questions),
        **score_answers([answers]),
    }
    folder = Path(run) / "eval"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1))
    rows = [
        {
            "id": answer.question.id,
            "task": answer.question.task,
            "reply": answer.reply,
            "extracted": answer.extracted,
            "answer": answer.question.answer,
            "right": answer.right,
            "errors": answer.errors,
            "words": answer.words,
        }
        for answer in answers
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{name}.answers.jsonl").write_text(lines, encoding="utf-8")
    return report


def read_answers(run: str | Path, questions: Sequence[Question], name: str) -> list[Answer]:
    """The replies that `evaluate` kept, read and scored anew, in the order of the questions.

    Raises:
        UserError: the run has not answered these questions.
    """
    path = Path(run) / "eval" / f"{name}.answers.jsonl"
    if not path.is_file():
        raise UserError(f"{run} has not been asked {name} yet: there is no {path}")
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    replies = {row["id"]: row["reply"] for row in rows}
    if set(replies) != {question.id for question in questions}:
        raise UserError(f"{path} answers other questions than those given; run eval again")
    return [read_reply(question, replies[question.id]) for question in questions]


def compare(
    arms: Mapping[str, Sequence[Sequence[Answer]]], *, against: Sequence[str], resamples: int = 2000
) -> dict:
    """Arms over all of their seeds, and the paired difference of each to others.

    Args:
        arms: Arm -> per seed the answers, to the same questions in the same order.
        against: Arms that all later ones are compared with.
        resamples: Of the bootstrap.

    Returns:
        `arms`: arm -> scores with intervals over questions and seeds; `differences`: "A - B" ->
        tasks and mean, each score, low, high, and per seed the p of McNemar's test.
    """
    tables = {arm: task_tables(runs) for arm, runs in arms.items()}
    names = list(arms)
    differences = {}
    for theirs in against:
        for ours in names[names.index(theirs) + 1 :]:
            count = min(len(arms[ours]), len(arms[theirs]))
            first, second = _seeds(tables[ours], count), _seeds(tables[theirs], count)
            differences[f"{ours} - {theirs}"] = {
                "mean": _as_dict(first, second, resamples),
                "tasks": {
                    task: _as_dict({task: first[task]}, {task: second[task]}, resamples)
                    for task in tables[ours]
                },
                "mcnemar_p": [
                    mcnemar(_right(arms[ours][seed]), _right(arms[theirs][seed]))
                    for seed in range(count)
                ],
            }
    scores = {arm: score_answers(runs, resamples=resamples) for arm, runs in arms.items()}
    for arm, runs in arms.items():
        means = [
            statistics.mean(task["by_seed"][seed] for task in scores[arm]["tasks"].values())
            for seed in range(len(runs))
        ]
        scores[arm]["mean"]["by_seed"] = means
    return {"arms": scores, "differences": differences}


def _seeds(tables: dict, count: int) -> dict:
    return {task: (errors_SQ[:count], words_Q) for task, (errors_SQ, words_Q) in tables.items()}


def _as_dict(ours: dict, theirs: dict, resamples: int) -> dict:
    interval = paired_interval(ours, theirs, resamples=resamples)
    return {"score": interval.value, "low": interval.low, "high": interval.high}


def _right(answers: Sequence[Answer]) -> np.ndarray:
    return np.array([answer.right for answer in answers])


def build_table(comparison: dict) -> Table:
    """Tasks by arms, each with its interval; parse failures beside; differences below."""
    arms = comparison["arms"]
    table = Table("task", title="score (95 % interval) | parse failures")
    for heading in ("chance", *arms):
        table.add_column(heading, justify="right")
    for task, first in next(iter(arms.values()))["tasks"].items():
        cells = [
            f"{_shown(scores['tasks'][task])} | {scores['tasks'][task]['parse_failures']:.0%}"
            for scores in arms.values()
        ]
        table.add_row(task, f"{max(first['chance'], first['majority']):.2f}", *cells)
    table.add_section()
    table.add_row("mean over tasks", "", *(_shown(scores["mean"]) for scores in arms.values()))
    for name, difference in comparison["differences"].items():
        table.add_row(name, "", *[""] * (len(arms) - 1), _shown(difference["mean"], "+.3f"))
    return table


def _shown(numbers: Mapping[str, float], form: str = ".2f") -> str:
    low, high = format(numbers["low"], form), format(numbers["high"], form)
    return f"{format(numbers['score'], form)} ({low} .. {high})"
