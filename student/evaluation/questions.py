"""Defines questions with answers, the common format of benchmarks and question files.

A question of kind `choice` lists its choices in the prompt, with letters. `label` is an open
answer; its `choices`, if given, are the valid labels. `transcription` is scored word by word.
`student.evaluation.question_files` reads questions from files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from manifests.clips import Clip
from manifests.errors import UserError
from student.data.examples import Message, ask
from student.text import answer_key, normalise

Kind = Literal["choice", "label", "transcription"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about one recording."""

    id: str
    """Unique in its file; used to pair answers of several students."""
    kind: Kind
    audio: str
    """Path of the recording, or an address with a scheme (`s3://bucket/key`)."""
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    task: str = "all"
    """Scores are reported per task, and as the mean over tasks."""
    clip_id: str | None = None
    """Id of the clip in the corpus, for looking up targets and labels; None if there is none."""
    offset: float = 0.0
    """Start within the file, in seconds."""
    duration: float | None = None
    """In seconds; None means up to the end."""
    group: str | None = None
    """Group of recordings of one origin (a speaker, a session), which probes keep on one side."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise UserError(f"question {self.id}: `kind` must be one of {known}; it is {self.kind}")
        if self.kind == "choice" and len(self.choices) > len(LETTERS):
            raise UserError(f"question {self.id} has {len(self.choices)} choices; 26 at most")
        if self.kind == "choice" and len(self.choices) < 2:
            raise UserError(f"question {self.id} is of kind choice and has no choices to offer")
        by_text: dict[str, str] = {}
        for choice in self.choices:
            text = answer_key(choice)
            if text in by_text:
                raise UserError(
                    f"question {self.id}: the choices {by_text[text]!r} and {choice!r} differ "
                    "only in case, punctuation or the encoding of characters"
                )
            by_text[text] = choice
        if self.choices and self.answer not in self.choices and self.kind != "transcription":
            listed = [f"({letter}) {choice!r}" for letter, choice in zip(LETTERS, self.choices)]  # noqa: B905
            raise UserError(
                f"question {self.id}: the answer {self.answer!r} is not one of its choices, "
                f"{', '.join(listed[:6])}{' ...' * (len(self.choices) > 6)}"
            )

    @property
    def text(self) -> str:
        """The text of the prompt, including the choices of a multiple-choice question."""
        if self.kind != "choice":
            return self.question
        options = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, self.choices)]  # noqa: B905
        return "\n".join([self.question, *options])

    @property
    def clip(self) -> Clip:
        """The recording as a clip."""
        return Clip(
            clip_id=self.clip_id or self.id,
            uri=absolute(self.audio),
            offset=self.offset,
            duration=self.duration,
        )

    @property
    def recording(self) -> tuple[str, float, float | None]:
        """A key that identifies the segment of audio."""
        return absolute(self.audio), self.offset, self.duration

    def messages(self) -> list[Message]:
        """The question as a conversation."""
        return ask(self.text, self.clip.clip_id)


def absolute(audio: str) -> str:
    """Makes a path absolute; addresses with a scheme are not changed."""
    return audio if "://" in audio else str(Path(audio).absolute())


def find_answer(answer: str, choices: Sequence[str]) -> str | None:
    """Finds the choice that an answer in a file refers to.

    The answer may be the choice's text, in any case and with or without its letter (`(B) dog`), or
    only the letter, in any case. Texts have priority: with the choices `B` and `A`, the answer `A`
    is the second.
    """
    bare = answer.strip()
    if bare in choices:
        return bare
    matching = [choice for choice in choices if (normalise(choice) or choice) == normalise(bare)]
    if len(matching) == 1:
        return matching[0]
    for letter, choice in zip(LETTERS, choices):  # noqa: B905
        marked = (letter, f"({letter})", f"{letter}.", f"{letter})")
        texts = [f"{mark} {choice}" for mark in marked[1:]]
        if bare.upper() in marked or normalise(bare) in map(normalise, texts):
            return choice
    return None


def check_questions(questions: Iterable[Question]) -> list[Question]:
    """Checks that ids are unique, and returns questions whose tasks have one kind each.

    A task with several kinds, for which there is no single metric, is split by kind.

    Raises:
        UserError: two questions have one id.
    """
    questions = list(questions)
    repeated = [name for name, count in Counter(q.id for q in questions).items() if count > 1]
    if repeated:
        raise UserError(f"{len(repeated)} ids are given to several questions: {repeated[0]!r} ...")
    kinds: dict[str, set[str]] = defaultdict(set)
    for question in questions:
        kinds[question.task].add(question.kind)
    return [
        replace(question, task=f"{question.task} ({question.kind})")
        if len(kinds[question.task]) > 1
        else question
        for question in questions
    ]


def digest(questions: Iterable[Question]) -> str:
    """A hash of the questions and their correct answers, independent of the order."""
    rows = sorted(
        json.dumps([q.id, q.kind, q.text, q.answer, q.choices, q.task, *q.recording])
        for q in questions
    )
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=8).hexdigest()
