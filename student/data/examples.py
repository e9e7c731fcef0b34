"""Examples: what is asked about which clip, and which clips are held out.

Corpora have transcripts and labels, not conversations; templates make questions and answers of
them. Ready conversations come as JSON lines. Which clips are held out depends on nothing but their
ids, so every run, arm and backbone holds out the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.clips import Clip
from manifests.console import as_fields
from manifests.errors import UserError
from student.config import TaskConfig

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HELD_OUT_FILE = "held_out.jsonl"

Message = dict[str, Any]
"""`{"role": ..., "content": [parts]}`; an audio part is `{"type": "audio", "audio": clip id}`."""


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation up to the assistant's last turn, and that turn."""

    clip_ids: tuple[str, ...]
    """Of the audio parts, in order; the last one's targets are distilled."""
    messages: list[Message]
    answer: str


def fraction(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def split(examples: Iterable[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Examples to learn from, and those held out, by their last clip: none is on both sides.

    A hash of the clip id decides, so a corpus that grows keeps its split. Where chance spares every
    clip, as it may with a dozen, the one that it came nearest to is held out.
    """
    examples = list(examples)
    clips = {example.clip_ids[-1] for example in examples}
    drawn = sorted((fraction("validation", clip), clip) for clip in clips)
    held = {clip for at, clip in drawn if at < share} or {clip for _, clip in drawn[:1]}
    learning = [example for example in examples if example.clip_ids[-1] not in held]
    return learning, [example for example in examples if example.clip_ids[-1] in held]


def ask(question: str, clip_id: str = "") -> list[Message]:
    """The conversation that asks one question about one clip."""
    content = [{"type": "audio", "audio": clip_id}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def build_examples(clips: Iterable[Clip], tasks: Iterable[TaskConfig]) -> Iterator[Example]:
    """Examples that the templates make of clips, in the order of the tasks.

    Raises:
        UserError: a task offers choices, and the corpus has one answer alone.
    """
    clips = list(clips)
    for number, task in enumerate(tasks):
        answered = [(clip, answer) for clip in clips if (answer := _answer(clip, task)) is not None]
        known = sorted({answer for _, answer in answered})
        if task.choices and len(known) == 1:
            raise UserError(
                f"data.tasks: {task.questions[0]!r} offers {task.choices} choices, but the corpus "
                f"has one answer alone, {known[0]!r}; take `choices` out"
            )
        for clip, answer in answered:
            for repeat in range(_times(task.weight, number, clip.clip_id)):
                key = (number, clip.clip_id, repeat)
                question = task.questions[int(fraction("wording", *key) * len(task.questions))]
                if task.choices:
                    offered = _offered(answer, known, task.choices, key)
                    letters = [f"({LETTERS[at]}) {choice}" for at, choice in enumerate(offered)]
                    said = letters[offered.index(answer)]
                    asked = "\n".join([question, *letters])
                    yield Example((clip.clip_id,), ask(asked, clip.clip_id), said)
                else:
                    yield Example((clip.clip_id,), ask(question, clip.clip_id), answer)


def _times(weight: float, *key: object) -> int:
    """How often an example of that weight is shown: its integer part, and once more by chance."""
    return int(weight + fraction("weight", *key))


def _offered(answer: str, known: list[str], count: int, key: tuple[object, ...]) -> list[str]:
    """The right answer among others, in an order that depends on the key alone."""
    offered = {answer}
    draw = 0
    while len(offered) < min(count, len(known)):
        offered.add(known[int(fraction("choice", *key, draw) * len(known))])
        draw += 1
    return sorted(offered, key=lambda choice: fraction("order", *key, choice))


def _answer(clip: Clip, task: TaskConfig) -> str | None:
    for path in task.answer:
        value = clip.text if path == "text" else clip.labels.get(path.removeprefix("labels."))
        if isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        if value not in (None, ""):
            return str(value)
    return None


def read_chats(
    path: str | Path, clips: Mapping[str, Clip], *, weight: float = 1.0
) -> Iterator[Example]:
    """Examples from a JSON-lines file of conversations that end with the assistant.

    Args:
        path: The file.
        clips: Of the corpus, by id.
        weight: How often each is shown: 2 is twice, 0.5 every other one, by chance; a file that
            moves or is copied keeps its choice.

    Raises:
        UserError: a line is not such a conversation, or names a clip that the corpus lacks.
    """
    if not Path(path).is_file():
        raise UserError(f"data.chats: there is no file {path}")
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                example = _chat(json.loads(line)["messages"], clips)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise UserError(f"{path}, line {number}: not a conversation: {error!r}") from None
            for _ in range(_times(weight, number, line)):
                yield example


def _chat(messages: list[Message], clips: Mapping[str, Clip]) -> Example:
    *before, last = messages
    if last["role"] != "assistant":
        raise ValueError("the last message must be the assistant's")
    parts = [part for message in before for part in _parts(message)]
    clip_ids = tuple(part["clip_id"] for part in parts if part["type"] == "audio")
    if not clip_ids:
        raise ValueError("there is no audio in it")
    for clip_id in clip_ids:
        if clip_id not in clips:
            raise ValueError(f"the corpus has no clip {clip_id!r}")
    content = [{"role": message["role"], "content": _as_audio(message)} for message in before]
    return Example(clip_ids, content, "".join(part["text"] for part in _parts(last)))


def write_held_out(run: Path, examples: Iterable[Example], clips: Mapping[str, Clip]) -> None:
    """Keeps held-out examples with where their audio is, for what comes after training."""
    with (run / HELD_OUT_FILE).open("w", encoding="utf-8") as file:
        for example in examples:
            heard = [as_fields(clips[clip_id]) for clip_id in example.clip_ids]
            row = {"messages": example.messages, "answer": example.answer, "clips": heard}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_held_out(run: Path) -> Iterator[tuple[Example, list[Clip]]]:
    """The held-out examples of a run, with their clips."""
    with (run / HELD_OUT_FILE).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            clips = [Clip(**fields) for fields in row["clips"]]
            ids = tuple(clip.clip_id for clip in clips)
            yield Example(ids, row["messages"], row["answer"]), clips


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_audio(message: Message) -> list[dict[str, Any]]:
    return [
        {"type": "audio", "audio": part["clip_id"]} if part["type"] == "audio" else part
        for part in _parts(message)
    ]
