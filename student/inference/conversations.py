"""Inputs of `coat-student generate` and `reply`: a recording, a folder, or conversations.

Several inputs are answered in batches and printed as JSON lines, in order; a conversation about one
recording can have several turns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.clips import Clip
from manifests.corpus.sources import folder
from manifests.errors import UserError, check_least, explain
from manifests.json_lines import read_lines
from student.data.examples import Message, ask
from student.inference.generate import TrainedStudent, to_clip


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation whose next turn is the assistant's."""

    label: dict[str, Any]
    """First fields of the answer's line."""
    messages: list[Message]
    audio: tuple[Clip, ...]
    """In the order of the audio parts."""


def about(source: str, question: str) -> list[Conversation]:
    """Builds one question about an audio file, or about each audio file of a folder.

    Raises:
        UserError: there is no such file, no audio in the folder, or no question.
    """
    if not question.strip():
        raise UserError("the question is empty")
    clips = list(folder.clips(source)) if Path(source).is_dir() else [to_clip(source)]
    return [
        Conversation(label={"audio": clip.uri}, messages=ask(question), audio=(clip,))
        for clip in clips
    ]


def read_conversations(source: str) -> list[Conversation]:
    """Reads the conversations of a JSON-lines file; audio paths are relative to its folder.

    The line of the answer has all fields of the conversation's line.

    Raises:
        UserError: the file does not exist, or a line is not a conversation that ends with the user.
    """
    path = Path(source)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    return [_conversation(path, number, line) for number, line in read_lines(path)]


def _conversation(path: Path, number: int, line: str) -> Conversation:
    try:
        fields = json.loads(line)
        messages = fields["messages"]
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
        raise UserError(f"{path}, line {number}: not a conversation: {explain(error)}") from None
    clips = tuple(Clip(clip_id=name, uri=str(Path(name).absolute())) for name in audio)
    return Conversation(label=fields, messages=messages, audio=clips)


def answers(
    student: TrainedStudent, asked: Sequence[Conversation], *, batch_size: int, max_tokens: int
) -> Iterator[dict[str, Any]]:
    """Yields each conversation's label with its answer, batch by batch.

    If the audio of one of several cannot be read, its answer is None, and `error` is the reason.

    Raises:
        UserError: a number is out of range, or the audio of the only conversation cannot be read.
    """
    check_least("--batch-size", batch_size, 1)
    check_least("--max-tokens", max_tokens, 1)
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        waves: dict[int, list[np.ndarray]] = {}
        results: list[dict[str, Any]] = [{} for _ in batch]
        for place, conversation in enumerate(batch):
            try:
                waves[place] = [student.load_audio(clip) for clip in conversation.audio]
            except UserError as error:
                if len(asked) == 1:
                    raise
                results[place] = {"answer": None, "error": str(error)}
        messages = [batch[place].messages for place in waves]
        names = [[clip.uri for clip in batch[place].audio] for place in waves]
        replies = (
            student.reply(messages, [*waves.values()], names=names, max_tokens=max_tokens)
            if waves
            else []
        )
        for place, answer in zip(waves, replies, strict=True):
            results[place] = {"answer": answer}
        for conversation, result in zip(batch, results, strict=True):
            yield {**conversation.label, **result}


def talk(
    student: TrainedStudent, first: Conversation, lines: Iterable[str], *, max_tokens: int
) -> Iterator[str]:
    """Answers the first question about a recording, then one question per line.

    Answers are printed while they are generated.
    """
    waves = [student.load_audio(clip) for clip in first.audio]
    names = [clip.uri for clip in first.audio]
    messages = list(first.messages)
    questions = iter(lines)
    while True:
        (answer,) = student.reply(
            [messages], [waves], names=[names], max_tokens=max_tokens, stream=True
        )
        yield answer
        line = next(questions, "").strip()
        if not line:
            return
        messages += [
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            {"role": "user", "content": [{"type": "text", "text": line}]},
        ]
