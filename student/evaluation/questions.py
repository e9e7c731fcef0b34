"""Questions with answers: one JSON object a line, the format that every loader converts to.

    {"id": "7", "task": "drum", "kind": "label", "audio": "a.wav", "question": "Which drum is hit?",
     "choices": ["kick", "snare"], "answer": "snare"}

`kind` is `choice` (the choices are put into the question, as letters), `label` (an open answer;
`choices`, if given, are the labels that count as answers) or `transcription`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from manifests.clips import Clip
from manifests.errors import UserError
from student.data.examples import Message, ask, read_held_out

Kind = Literal["choice", "label", "transcription"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about one recording."""

    id: str
    """Unique in its file; answers of several students are paired by it."""
    kind: Kind
    audio: str
    """Path of the recording."""
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    task: str = "all"
    """Scores are reported per task, and as the mean over tasks."""
    clip_id: str | None = None
    """Of the corpus, where targets and labels are looked up; None where there is no corpus."""
    offset: float = 0.0
    """Start within the file, in seconds."""
    duration: float | None = None
    """In seconds; None is up to the end."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise UserError(f"question {self.id}: `kind` must be one of {known}; it is {self.kind}")
        if self.kind == "choice" and self.answer not in self.choices:
            raise UserError(f"question {self.id}: {self.answer!r} is not one of its choices")
        if self.kind == "choice" and len(self.choices) > len(LETTERS):
            raise UserError(f"question {self.id} has {len(self.choices)} choices; 26 at most")

    @property
    def text(self) -> str:
        """What the student is asked, choices included where they are part of the question."""
        if self.kind != "choice":
            return self.question
        options = [f"({LETTERS[at]}) {choice}" for at, choice in enumerate(self.choices)]
        return "\n".join([self.question, *options])

    @property
    def clip(self) -> Clip:
        """The recording, as audio is loaded."""
        return Clip(
            clip_id=self.clip_id or self.id,
            uri=str(Path(self.audio).absolute()),
            offset=self.offset,
            duration=self.duration,
        )

    def messages(self) -> list[Message]:
        """The conversation that asks it."""
        return ask(self.text, self.clip.clip_id)


def read_questions(path: str | Path) -> list[Question]:
    """Questions of a JSON-lines file; relative audio paths are relative to its folder.

    Raises:
        UserError: there is no such file, it is empty, or a line is not a question.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no file of questions {path}")
    found: dict[str, Question] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            row["choices"] = tuple(row.get("choices", ()))
            row["audio"] = str(Path(path).parent / row["audio"])
            question = Question(**row)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}, line {number}: not a question: {error}") from None
        if question.id in found:
            raise UserError(f"{path}, line {number}: the id {question.id!r} was there before")
        found[question.id] = question
    if not found:
        raise UserError(f"{path} has no questions")
    return list(found.values())


def questions_of_run(run: Path) -> list[Question]:
    """A run's own held-out examples as questions; multi-clip conversations are left out.

    An answer that is the clip's text is scored as a transcription, any other as a label.
    """
    questions = []
    for number, (example, clips) in enumerate(read_held_out(run)):
        if len(clips) != 1 or len(example.messages) != 1:
            continue
        (clip,) = clips
        text = "".join(part.get("text", "") for part in example.messages[0]["content"])
        spoken = example.answer == clip.text
        questions.append(
            Question(
                id=f"{number}/{clip.clip_id}", task=text,
                kind="transcription" if spoken else "label",
                audio=clip.uri, question=text, answer=example.answer, clip_id=clip.clip_id,
                offset=clip.offset, duration=clip.duration,
            )
        )  # fmt: skip
    return questions


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Writes questions as `read_questions` reads them, with absolute paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for question in questions:
            row = {name: getattr(question, name) for name in Question.__slots__}
            row["audio"] = question.clip.uri
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
