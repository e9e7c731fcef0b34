"""The files of an evaluation: RUN/eval/NAME.json, and every reply in NAME.answers.jsonl.

The scores contain a hash of the questions. Answers to other questions with the same name are never
overwritten.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manifests.console import messages
from manifests.errors import UserError
from manifests.json_lines import read_lines
from student.evaluation.answering import Reply
from student.evaluation.journal import Identity, read_identity
from student.evaluation.questions import Question, digest
from student.evaluation.scoring.scores import Answer, read_reply
from student.runs.folder import Run, replace_text


def check_name(run: str | Path, name: str, questions: Sequence[Question]) -> None:
    """Checks that a name can be that of a file, and that its results are not about other questions.

    Raises:
        UserError: the name is not plain, or the run has answers to other questions under it.
    """
    if not name.strip() or "/" in name or "\0" in name or name.startswith(".") or len(name) > 200:
        raise UserError(
            f"--name {name!r} cannot be a file name: use up to 200 characters without '/' that do "
            "not begin with '.'"
        )
    folder = Run(run)
    unfinished = folder.unfinished_answers_file(name)
    begun = read_identity(unfinished)
    if begun is not None and begun.get("questions") != digest(questions):
        raise UserError(
            f"{unfinished} contains replies to other questions than these {len(questions)}; keep "
            "them by giving these another name with --name, or delete that file"
        )
    if not folder.answers_file(name).is_file():
        return
    answers, scores = folder.answers_file(name), folder.scores_file(name)
    known = json.loads(scores.read_text("utf-8")) if scores.is_file() else {}
    if "digest" in known:
        is_same = known["digest"] == digest(questions)
    else:  # of an earlier version
        is_same = {row["id"] for row in _rows(folder, name)} == {each.id for each in questions}
    if not is_same:
        raise UserError(
            f"{answers} contains answers to other questions than these {len(questions)}; keep them "
            "by giving these another name with --name, or delete that file"
        )


def write_answers(
    run: str | Path, name: str, questions: Sequence[Question], replies: Sequence[Reply]
) -> list[Answer]:
    """Writes every reply, and returns the scored answers to questions that could be asked."""
    answers = [
        (reply, read_reply(question, reply.text, cut=reply.is_cut))
        for question, reply in zip(questions, replies, strict=True)
    ]
    rows = [
        {
            "id": answer.question.id,
            "task": answer.question.task,
            "reply": reply.text,
            "extracted": None if reply.failure else answer.extracted,
            "answer": answer.question.answer,
            "right": answer.right and not reply.failure,
            "errors": answer.errors,
            "words": answer.words,
            "cut": reply.is_cut,
        }
        | ({"failure": reply.failure} if reply.failure else {})
        for reply, answer in answers
    ]
    file = Run(run).answers_file(name)
    file.parent.mkdir(exist_ok=True)
    replace_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return [answer for reply, answer in answers if not reply.failure]


def read_kept_replies(run: str | Path, name: str, identity: Identity) -> dict[str, Reply]:
    """Question id -> reply of a finished evaluation with the same identity; questions that could
    not be asked are left out."""
    folder = Run(run)
    scores = folder.scores_file(name)
    if not scores.is_file() or not folder.answers_file(name).is_file():
        return {}
    if json.loads(scores.read_text("utf-8")).get("identity") != identity:
        return {}
    return {
        row["id"]: Reply(text=row["reply"], is_cut=row["cut"])
        for row in _rows(folder, name)
        if not row.get("failure")
    }


def remove_scores(run: str | Path, name: str) -> None:
    """Removes the scores of a set of questions, before its answers are replaced."""
    Run(run).scores_file(name).unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """Replaces undefined numbers by None, because JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_scores(run: str | Path, name: str, report: dict) -> None:
    """Writes the scores of a set of questions."""
    file = Run(run).scores_file(name)
    replace_text(file, json.dumps(report, indent=1, allow_nan=False))


def read_analysis(run: str | Path, name: str, identity: Identity) -> dict | None:
    """The results of a finished analysis with the same identity, for which all audio was read; None
    if there is none."""
    file = Run(run).analysis_file(name)
    report = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if report.get("identity") != identity or report.get("unreadable"):
        return None
    messages.print(
        f"{file} has these results already; to compute them again, delete it", markup=False
    )
    return report


def write_analysis(run: str | Path, name: str, report: dict) -> None:
    """Writes the results of an analysis; results for other questions are kept beside them."""
    file = Run(run).analysis_file(name)
    if file.is_file():
        earlier = json.loads(file.read_text("utf-8")).get("digest", "earlier")
        if earlier != report["digest"]:
            kept = file.with_name(f"{name}-{earlier}.json")
            file.rename(kept)
            messages.print(
                f"{file} was computed from other questions; it is kept as {kept.name}", markup=False
            )
    replace_text(file, json.dumps(report, indent=1, allow_nan=False))


def read_answers(run: str | Path, questions: Sequence[Question], name: str) -> list[Answer]:
    """Reads and scores again the replies that `write_answers` wrote, in the order of the questions,
    without questions that could not be asked.

    Raises:
        UserError: the run has not answered these questions.
    """
    folder = Run(run)
    path = folder.answers_file(name)
    if not path.is_file():
        raise UserError(f"{run} has no results for {name} yet: there is no {path}")
    rows = {row["id"]: row for row in _rows(folder, name)}
    if set(rows) != {question.id for question in questions}:
        raise UserError(f"{path} answers other questions than those given; run eval again")
    return [
        read_reply(question, rows[question.id]["reply"], cut=rows[question.id].get("cut", False))
        for question in questions
        if not rows[question.id].get("failure")
    ]


def _rows(folder: Run, name: str) -> list[dict]:
    return [json.loads(line) for _, line in read_lines(folder.answers_file(name))]
