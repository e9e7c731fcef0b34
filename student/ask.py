"""What `coat-student generate` asks: one recording, a folder, or a file of conversations.

Several are answered in batches and come as JSON lines, in the order of their input; one recording
can be talked about over several turns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.clips import Clip
from manifests.errors import UserError
from manifests.sources import folder
from student.generate import TrainedStudent, as_clip
from student.tasks import Message, ask


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One conversation that waits for the assistant."""

    label: dict[str, Any]
    """What the answer's line begins with."""
    messages: list[Message]
    audio: tuple[Clip, ...]
    """In the order of the audio parts."""


def asked_of(source: str, question: str | None) -> list[Asked]:
    """The conversations that a source stands for.

    Args:
        source: An audio file; a folder, each of whose audio files is asked about; or a `.jsonl`
            of `{"messages": [...]}` with audio parts `{"type": "audio", "audio": PATH}`.
        question: About files; conversations have their own.

    Raises:
        UserError: there is no such source, nothing in it, or no question.
    """
    path = Path(source)
    if path.suffix == ".jsonl":
        return list(_conversations(path))
    if question is None:
        raise UserError("what is asked? coat-student generate AUDIO QUESTION")
    clips = list(folder.clips(source)) if path.is_dir() else [as_clip(source)]
    return [Asked(label={"audio": clip.uri}, messages=ask(question), audio=(clip,))
            for clip in clips]  # fmt: skip


def _conversations(path: Path) -> Iterator[Asked]:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            messages = json.loads(line)["messages"]
            if messages[-1]["role"] != "user":
                raise ValueError("the last message must be the user's")
            parts = [
                part
                for message in messages
                if not isinstance(message["content"], str)
                for part in message["content"]
            ]
            audio = [str(path.parent / part["audio"]) for part in parts if part["type"] == "audio"]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{path}, line {number}: not a conversation: {error!r}") from None
        heard = tuple(as_clip(one) for one in audio)
        yield Asked(label={"messages": messages}, messages=messages, audio=heard)


def answers(
    student: TrainedStudent, asked: Sequence[Asked], *, batch_size: int, max_tokens: int
) -> Iterator[dict[str, Any]]:
    """Each conversation's label with its answer, batch by batch."""
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        waves = [[student.hear(clip) for clip in one.audio] for one in batch]
        said = student.reply([one.messages for one in batch], waves, max_tokens=max_tokens)
        for one, answer in zip(batch, said, strict=True):
            yield {**one.label, "answer": answer}


def talk(
    student: TrainedStudent, first: Asked, lines: Iterable[str], *, max_tokens: int
) -> Iterator[str]:
    """A conversation about one recording: the answer to the first question, then to each line.

    Answers are printed as they are made.
    """
    waves = [student.hear(clip) for clip in first.audio]
    messages = list(first.messages)
    questions = iter(lines)
    while True:
        (answer,) = student.reply([messages], [waves], max_tokens=max_tokens, stream=True)
        yield answer
        line = next(questions, "").strip()
        if not line:
            return
        messages += [
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            {"role": "user", "content": [{"type": "text", "text": line}]},
        ]
