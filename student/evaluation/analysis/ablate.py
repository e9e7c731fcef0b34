"""Is the block used? One student answers the same questions with its block or audio tampered with.

A student that answers as well with another clip's states in its block does not read them. A fall
with zeros alone shows less: states that never occur disturb any model. So the conditions stand side
by side, each paired, question by question, with the intact student.

Reading the table: `markers only` and `block removed` change the prompt's length and what the
student was trained on; `no audio` is what can be guessed from the question; `other audio` must fall
to chance if the student listens at all.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from manifests.errors import UserError
from student.evaluation.analysis.state_edits import REPLACEMENTS, replaced
from student.evaluation.answering import Prompt, PromptEdit, QuestionRunner, StateEdit, other_audio
from student.evaluation.questions import Question
from student.evaluation.scoring.scores import (
    Answer,
    paired_interval,
    read_reply,
    score_answers,
    task_tables,
)

FILE = "ablation.json"
CONDITIONS = ("intact", *REPLACEMENTS, "markers only", "block removed", "other audio", "no audio")


def ablate(
    run: str | Path,
    questions: Sequence[Question],
    *,
    first_layer: int = 0,
    batch_size: int = 16,
    resamples: int = 1000,
) -> dict:
    """Measures a run under every condition and writes RUN/ablation.json and .png.

    Args:
        run: Folder of a run.
        questions: With answers.
        first_layer: Decoder layer from whose entrance on states are replaced.
        batch_size: Questions per forward pass; `other clip` takes states from the same batch.
        resamples: Of the bootstrap.

    Returns:
        What was written: `arm`, `seed`, `layers` (whose entering states are replaced),
        `conditions`: condition -> scores (see `score_answers`) and `change`, the paired difference
        to the intact student.
    """
    examinee = QuestionRunner(run, batch_size=batch_size)
    student = examinee.trained.student
    conditions = list(CONDITIONS)
    if student.block is None:
        conditions = ["intact", "other audio", "no audio"]
    elif not 0 <= first_layer < student.base.config.get_text_config().num_hidden_layers:
        raise UserError(f"there is no decoder layer {first_layer}")
    answers = {
        condition: _answers(examinee, questions, condition, first_layer) for condition in conditions
    }
    tables = {condition: task_tables([given]) for condition, given in answers.items()}
    found = {}
    for condition, given in answers.items():
        change = paired_interval(tables[condition], tables["intact"], resamples=resamples)
        found[condition] = score_answers([given], resamples=resamples) | {
            "change": {"score": change.value, "low": change.low, "high": change.high},
            "same_reply": _same(given, answers["intact"]),
        }
    num_layers = student.base.config.get_text_config().num_hidden_layers
    report = {
        "arm": examinee.trained.recipe.arm,
        "seed": examinee.trained.recipe.seed,
        "questions": len(questions),
        "layers": list(range(first_layer, num_layers)) if student.block else [],
        "tapped_layer": student.tap,
        "conditions": found,
    }
    (Path(run) / FILE).write_text(json.dumps(report, indent=1))
    return report


def _answers(
    examinee: QuestionRunner, questions: Sequence[Question], condition: str, first_layer: int
) -> list[Answer]:
    asked: Sequence[Question] = questions
    change: PromptEdit | None = None
    tamper: StateEdit | None = None
    student = examinee.trained.student
    if condition == "other audio":
        asked = other_audio(questions)
    elif condition == "no audio":
        change = examinee.without_audio
    elif condition in ("markers only", "block removed"):
        assert student.block is not None
        ids = student.block.content_ids if condition == "markers only" else student.block.ids
        change = functools.partial(_without, ids=ids)
    elif condition in REPLACEMENTS:
        tamper = functools.partial(
            _replaced, student=student, kind=condition, first_layer=first_layer
        )
    replies = examinee.replies(asked, change=change, tamper=tamper, what=condition)
    return [read_reply(question, reply) for question, reply in zip(questions, replies, strict=True)]


def _replaced(
    inputs: dict[str, Tensor], batch: Sequence[Question], **options: Any
) -> AbstractContextManager[None]:
    return replaced(inputs=inputs, partners=choose_partners(batch), **options)


def choose_partners(batch: Sequence[Question]) -> list[int]:
    """For each question of a batch, another with the same task and another answer; failing that,
    the next one."""
    partners = []
    for at, question in enumerate(batch):
        after = [(at + step) % len(batch) for step in range(1, len(batch))] or [at]
        fitting = [
            other
            for other in after
            if batch[other].task == question.task and batch[other].answer != question.answer
        ]
        partners.append((fitting or after)[0])
    return partners


def _without(prompt: Prompt, ids: Sequence[int]) -> Prompt:
    gone_S = torch.isin(prompt.ids_S, torch.tensor(ids))
    return replace(prompt, ids_S=prompt.ids_S[~gone_S])


def _same(answers: Sequence[Answer], intact: Sequence[Answer]) -> float:
    pairs = zip(answers, intact, strict=True)
    return sum(ours.reply == theirs.reply for ours, theirs in pairs) / len(intact)


def build_table(report: dict) -> Table:
    """Conditions by tasks, with the change against intact."""
    tasks = list(report["conditions"]["intact"]["tasks"])
    title = f"{report['arm']}, seed {report['seed']}: is the block used?"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    table.add_column("condition", no_wrap=True)
    table.add_column("mean score", justify="right")
    table.add_column("change", justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for heading in ("same reply", *tasks):
        table.add_column(heading, justify="right", overflow="fold")
    for condition, found in report["conditions"].items():
        change = found["change"]
        table.add_row(
            condition,
            f"{found['mean']['score']:.3f}",
            f"{change['score']:+.3f}",
            f"{change['low']:+.3f} .. {change['high']:+.3f}",
            f"{found['same_reply']:.2f}",
            *(f"{found['tasks'][task]['score']:.2f}" for task in tasks),
        )
    return table
