"""Reads files of questions, and a run's own held-out examples as questions.

A line is a JSON object with the keys of `Question` (see the table in docs/evaluate.md), or a line
of a run's `held_out.jsonl`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests.console import messages
from manifests.errors import UserError
from manifests.json_lines import read_lines
from manifests.wording import number_of
from student.config import TaskConfig
from student.data.held_out import HELD_OUT_FILE
from student.evaluation.questions import (
    LETTERS,
    Question,
    check_questions,
    find_answer,
)
from student.recipe_files import RECIPE_FILE, load_recipe

EXAMPLE = (
    '{"audio": "a.wav", "question": "Which drum?", "answer": "snare", "choices": ["kick", "snare"]}'
)
REQUIRED = ("audio", "question", "answer")
KEYS = tuple(Question.__slots__)
_OPTION = re.compile(r"^\(([A-Z])\) (.*)$")


def read_questions(path: str | Path) -> list[Question]:
    """Reads questions from a JSON-lines file; relative audio paths are relative to its folder.

    Raises:
        UserError: the file does not exist or is empty, or a line is not a question.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no question file {path}")
    tasks = _tasks(path.parent)
    questions: dict[str, Question] = {}
    left_out = 0
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("it is not a JSON object")
            if "messages" in row:
                question = _from_held_out(row, number, tasks)
            else:
                question = _from_row(row, number, path.parent)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}: invalid JSON ({error.msg} at character {error.pos + 1})"
            ) from None
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number}: not a question: {error}; keys are "
                f"{', '.join(KEYS)}, of which {', '.join(REQUIRED)} are required, such as {EXAMPLE}"
            ) from None
        if question is None:
            left_out += 1
            continue
        if question.id in questions:
            raise UserError(f"{path}, line {number}: the id {question.id!r} occurs twice")
        questions[question.id] = question
    if not questions:
        raise UserError(f"{path} has no questions")
    if left_out:
        messages.print(
            f"{path}: left out {number_of(left_out, 'conversation')} of several turns or clips",
            markup=False,
        )
    return check_questions(questions.values())


def questions_of_run(run: Path) -> list[Question]:
    """Reads a run's own held-out examples as questions, grouped by the recipe's tasks.
    Conversations with several turns or clips are skipped."""
    path = run / HELD_OUT_FILE
    if not run.is_dir():
        raise UserError(f"there is no folder {run}; give the folder of a run (coat-student train)")
    if not path.is_file():
        raise UserError(f"{run} has no held-out examples of its own; give --questions FILE")
    return read_questions(path)


def _from_row(row: Mapping[str, Any], number: int, folder: Path) -> Question:
    missing = [key for key in REQUIRED if row.get(key) is None]
    unknown = [key for key in row if key not in KEYS]
    if missing or unknown:
        faults = [f"it lacks {', '.join(missing)}"] * bool(missing)
        faults += [f"it has {', '.join(unknown)}"] * bool(unknown)
        raise ValueError(" and ".join(faults))
    choices = row.get("choices") or ()
    if isinstance(choices, str):
        raise ValueError("`choices` must be a list")
    audio = str(row["audio"])
    values: dict[str, Any] = {
        **row,
        "id": str(row.get("id", number)),
        "kind": row.get("kind") or ("choice" if choices else "label"),
        "audio": audio if "://" in audio else str(folder / audio),
        "question": str(row["question"]),
        "answer": str(row["answer"]),
        "choices": tuple(map(str, choices)),
    }
    if values["choices"] and values["kind"] != "transcription":
        values["answer"] = find_answer(values["answer"], values["choices"]) or values["answer"]
    return Question(**{key: value for key, value in values.items() if value is not None})


def _from_held_out(
    row: Mapping[str, Any], number: int, tasks: Mapping[str, tuple[str, TaskConfig]]
) -> Question | None:
    """Parses a line of held_out.jsonl; None for a conversation with several turns or clips."""
    if len(row["clips"]) != 1 or len(row["messages"]) != 1:
        return None
    (clip,) = row["clips"]
    text = "".join(part.get("text", "") for part in row["messages"][0]["content"])
    asked, listed = _split_options(text)
    task, recipe_task = tasks.get(asked, (asked, None))
    choices = tuple(row.get("choices") or listed)
    kind = row.get("kind") or _kind(row["answer"], clip.get("text"), choices)
    if kind == "transcription" and recipe_task is not None and "text" not in recipe_task.answer:
        kind = "label"  # one that happens to equal the clip's text
    answer = row["answer"]
    if choices:
        answer = find_answer(answer, choices) or answer
    return Question(
        id=str(row.get("id") or f"{number - 1}/{clip['clip_id']}"),
        task=row.get("task") or task,
        kind=kind,
        audio=clip["uri"],
        question=row.get("question") or asked,
        answer=answer,
        choices=choices,
        clip_id=clip["clip_id"],
        offset=clip.get("offset", 0.0),
        duration=clip.get("duration"),
        group=(clip.get("labels") or {}).get("group"),
    )


def _kind(answer: str, text: str | None, choices: tuple[str, ...]) -> Any:
    """The kind of a question of an earlier version, which did not store it."""
    if choices:
        return "choice"
    return "transcription" if answer == text else "label"


def _split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Splits a prompt into its question and the choices in its last lines."""
    lines = text.split("\n")
    options = [_OPTION.match(line) for line in lines[1:]]
    for count in range(len(options), 1, -1):
        tail = options[-count:]
        if all(option and option[1] == LETTERS[place] for place, option in enumerate(tail)):
            return "\n".join(lines[:-count]), tuple(option[2] for option in tail if option)
    return text, ()


def _tasks(folder: Path) -> dict[str, tuple[str, TaskConfig]]:
    """Wording -> name of its task in the recipe beside the file, and the task."""
    recipe = folder / RECIPE_FILE
    if not recipe.is_file():
        return {}
    tasks = load_recipe(recipe, quiet=True).data.tasks
    return {
        wording: (task.questions[0], task) for task in reversed(tasks) for wording in task.questions
    }
