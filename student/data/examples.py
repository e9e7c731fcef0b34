"""Builds examples: questions about clips with their answers.

Corpora have transcripts and labels, not conversations. Templates create questions and answers from
them; existing conversations are read from JSON lines. An example depends only on its clip's id, its
task and its number, so it is built on access and not stored.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from manifests.clips import Clip, has_value
from manifests.errors import UserError, explain
from manifests.json_lines import iterate_lines
from student.config import TaskConfig
from student.text import answer_key

log = logging.getLogger(__name__)

FEW_ANSWERS = 10_000
"""Among more answers, enough are distinct for any number of choices."""
MAX_DRAWS = 10_000
"""Draws of other answers for one question. Enough for 26 distinct ones; among fewer, as in a run of
an earlier version whose answers are equal but for case, the question offers fewer."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Message = dict[str, Any]
"""`{"role": ..., "content": [parts]}`; an audio part is `{"type": "audio", "audio": clip id}`."""
AnswerKind = Literal["choice", "label", "transcription"]
"""The type of an answer, which determines its scoring: a choice, a label, or a transcription."""


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation up to the assistant's last turn, and that turn."""

    clip_ids: tuple[str, ...]
    """Clips of the audio parts, in order; the last one's targets are distilled."""
    messages: list[Message]
    answer: str
    """The assistant's turn as the training target; for a choice, with its letter: `(A) dog`."""
    task: str = ""
    """The task's first wording, or the name of the file of conversations."""
    kind: AnswerKind = "label"
    question: str = ""
    """The last question, without its choices."""
    choices: tuple[str, ...] = ()
    id: str = ""
    """Unique among a run's examples."""

    @property
    def bare_answer(self) -> str:
        """The answer without the letter of its choice."""
        return self.answer[len("(A) ") :] if self.choices else self.answer


def fraction(*key: object) -> float:
    """A number in [0, 1) that depends only on the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def ask(question: str, clip_id: str = "") -> list[Message]:
    """A conversation with one question about one clip."""
    content = [{"type": "audio", "audio": clip_id}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def times_shown(weight: float, *key: object) -> int:
    """Returns the number of repetitions for a weight: its integer part, and one more with the
    probability of the rest."""
    return int(weight) if weight == int(weight) else int(weight + fraction("weight", *key))


def find_answer(text: str | None, labels: Mapping[str, Any], task: TaskConfig) -> str | None:
    """Finds the answer to a task in a clip's text and labels, if there is one."""
    for path in task.answer:
        value = text if path == "text" else labels.get(path.removeprefix("labels."))
        if has_value(value):
            return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return None


def distinct_answers(task: TaskConfig, answers: Sequence[str]) -> Sequence[str]:
    """Returns the answers from which a task offers choices: of equal ones, the first.

    Equal answers (`student.text.answer_key`) are never offered together; a warning names two of
    them. Those of an open task, and more than FEW_ANSWERS, are returned as they are.
    """
    if not task.choices or len(answers) > FEW_ANSWERS:
        return answers
    by_key: dict[str, str] = {}
    equal: list[tuple[str, str]] = []
    for answer in map(str, answers):  # They can be values of pyarrow.
        first = by_key.setdefault(answer_key(answer), answer)
        if first != answer:
            equal.append((first, answer))
    if equal:
        more = f" (and {len(equal) - 1} more such answers)" if len(equal) > 1 else ""
        log.warning(
            "data.tasks: %r: %r and %r are the same answer, and are never offered together%s",
            task.questions[0], *equal[0], more,
        )  # fmt: skip
    return list(by_key.values())


def check_answers(task: TaskConfig, answers: Sequence[str]) -> None:
    """Checks that a task with choices has several answers, and warns if it has fewer than choices.

    Args:
        task: The task.
        answers: Its distinct answers in the corpus.

    Raises:
        UserError: the corpus has only one answer.
    """
    if not 0 < len(answers) < task.choices:
        return
    listed = [str(answer) for answer in answers]  # They can be values of pyarrow.
    if len(listed) == 1:
        raise UserError(
            f"data.tasks: {task.questions[0]!r} offers {task.choices} choices, but the corpus "
            f"has only one answer, {listed[0]!r}; remove `choices`"
        )
    log.warning(
        "data.tasks: %r offers %d choices, but the corpus has only %d answers (%s); each question "
        "offers these",
        task.questions[0], task.choices, len(listed), ", ".join(listed),
    )  # fmt: skip


def task_names(tasks: Sequence[TaskConfig]) -> list[str]:
    """A readable and unique name for each task: its first wording, numbered if several are
    equal."""
    names: list[str] = []
    for task in tasks:
        name = task.questions[0]
        num_same = sum(known == name or known.startswith(f"{name} #") for known in names)
        names.append(f"{name} #{num_same + 1}" if num_same else name)
    return names


def build_example(
    clip: Clip, task: TaskConfig, *, number: int, name: str, repeat: int, answers: Sequence[str]
) -> Example:
    """Builds the example of a clip for a task to which it has an answer.

    Args:
        clip: The clip.
        task: The task.
        number: Position of the task in the recipe.
        name: Name of the task, from `task_names`.
        repeat: Number of earlier examples of this clip and task.
        answers: All distinct answers of the corpus, sorted; used only for `choices`.
    """
    answer = find_answer(clip.text, clip.labels, task)
    assert answer is not None
    key = (number, clip.clip_id, repeat)
    question = task.questions[int(fraction("wording", *key) * len(task.questions))]
    identity = f"{clip.clip_id}/{number}" + (f"/{repeat}" if repeat else "")
    if not task.choices:
        transcribes = "text" in task.answer and answer == clip.text
        kind = "transcription" if transcribes else "label"
        return Example(
            (clip.clip_id,), ask(question, clip.clip_id), answer,
            task=name, kind=kind, question=question, id=identity,
        )  # fmt: skip
    offered = _offered(answer, answers, task.choices, key)
    letters = [f"({LETTERS[place]}) {choice}" for place, choice in enumerate(offered)]
    asked = "\n".join([question, *letters])
    return Example(
        (clip.clip_id,), ask(asked, clip.clip_id), letters[offered.index(answer)],
        task=name, kind="choice", question=question, choices=tuple(offered), id=identity,
    )  # fmt: skip


def _offered(answer: str, answers: Sequence[str], count: int, key: tuple[object, ...]) -> list[str]:
    """The correct answer among others, in an order that depends only on the key."""
    offered = {answer_key(answer): answer}
    for draw in range(MAX_DRAWS):
        if len(offered) == min(count, len(answers)):
            break
        other = answers[int(fraction("choice", *key, draw) * len(answers))]
        offered.setdefault(answer_key(other), other)
    return sorted(offered.values(), key=lambda choice: fraction("order", *key, choice))


def build_examples(clips: Iterable[Clip], tasks: Sequence[TaskConfig]) -> Iterator[Example]:
    """Builds the examples of clips in memory, in the order of the tasks.

    Raises:
        UserError: a task offers choices, and the corpus has only one answer.
    """
    clips = list(clips)
    for number, (task, name) in enumerate(zip(tasks, task_names(tasks), strict=True)):
        answered = {
            clip.clip_id: answer
            for clip in clips
            if (answer := find_answer(clip.text, clip.labels, task)) is not None
        }
        answers = distinct_answers(task, sorted(set(answered.values())))
        check_answers(task, answers)
        for clip in clips:
            if clip.clip_id in answered:
                for repeat in range(times_shown(task.weight, number, clip.clip_id)):
                    yield build_example(
                        clip, task, number=number, name=name, repeat=repeat, answers=answers
                    )


def read_chats(path: str | Path, *, weight: float = 1.0) -> Iterator[tuple[int, Example]]:
    """Reads examples from a JSON-lines file of conversations that end with the assistant.

    Args:
        path: The file.
        weight: Number of repetitions: 2 repeats each example, 0.5 selects half of them at random,
            independent of the path of the file.

    Yields:
        (number of the line, example).

    Raises:
        UserError: a line is not such a conversation, or not UTF-8.
    """
    if not Path(path).is_file():
        raise UserError(f"data.chats: there is no file {path}")
    name = Path(path).stem
    for number, line in iterate_lines(Path(path)):
        try:
            example = _chat(json.loads(line)["messages"], name)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise not_a_chat(path, number, explain(error)) from None
        for _ in range(times_shown(weight, number, line)):
            yield number, example


def not_a_chat(path: str | Path, line: int, why: str) -> UserError:
    """The error to raise for a line that is not a conversation about clips of the corpus."""
    return UserError(f"{path}, line {line}: not a conversation: {why}")


def _chat(messages: list[Message], name: str) -> Example:
    *before, last = messages
    if last["role"] != "assistant":
        raise ValueError("the last message must be the assistant's")
    parts = [part for message in before for part in _parts(message)]
    clip_ids = tuple(part["clip_id"] for part in parts if part["type"] == "audio")
    if not clip_ids:
        raise ValueError("it contains no audio")
    content = [{"role": message["role"], "content": _as_audio(message)} for message in before]
    question = " ".join(part["text"] for part in _parts(before[-1]) if part["type"] == "text")
    answer = "".join(part["text"] for part in _parts(last))
    return Example(clip_ids, content, answer, task=name, question=question)


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_audio(message: Message) -> list[dict[str, Any]]:
    return [
        {"type": "audio", "audio": part["clip_id"]} if part["type"] == "audio" else part
        for part in _parts(message)
    ]
