"""Asks a student many questions, as it is or with its prompt or its block tampered with.

Everything is greedy, in batches of questions of similar length. A student is a run, or a plain
checkpoint: the untouched model (`RUN/base`) or an exported one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from torch import Tensor

from manifests.console import messages
from manifests.errors import UserError
from student.evaluation.questions import Question
from student.inference.generate import TrainedStudent

# Legend: B prompts, S tokens.

MAX_TOKENS = {"choice": 24, "label": 24, "transcription": 96}
"""Longest reply by kind of question."""


@dataclass(frozen=True)
class Prompt:
    """One question as model inputs, before padding."""

    question: Question
    ids_S: Tensor
    audio: dict[str, Tensor]
    """What the audio tower is given; empty for a prompt without audio."""


PromptEdit = Callable[[Prompt], Prompt]
StateEdit = Callable[[dict[str, Tensor], Sequence[Question]], AbstractContextManager[Any]]
"""Given a batch's inputs and questions: a context in which the model's states are changed."""


class QuestionRunner:
    """A student that is asked questions; keeps its prompts, to ask them again in other ways."""

    def __init__(self, path: str | Path, *, batch_size: int = 16) -> None:
        """
        Args:
            path: A run, or a plain checkpoint.
            batch_size: Questions per forward pass.
        """
        self.trained = TrainedStudent(path)
        self.path = Path(path)
        self.batch_size = batch_size
        self._prompts: dict[Question, Prompt] = {}

    def prompt(self, question: Question) -> Prompt:
        """A question as model inputs."""
        if question not in self._prompts:
            wave = self.trained.load_audio(question.clip)
            inputs = self.trained.prompter.prompt(question.messages(), [wave])
            ids_S = inputs.pop("input_ids")[0]
            self._prompts[question] = Prompt(question, ids_S, inputs)
        return self._prompts[question]

    def batches(
        self, questions: Sequence[Question], change: PromptEdit | None = None
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """(places in `questions`, model inputs padded on the left), by task, longest first."""
        prompts = [self.prompt(question) for question in questions]
        prompts = [change(prompt) for prompt in prompts] if change else prompts
        for kind in sorted({question.kind for question in questions}):
            order = [at for at, question in enumerate(questions) if question.kind == kind]
            order.sort(key=lambda at: (questions[at].task, -len(prompts[at].ids_S)))
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                batch = [prompts[at] for at in places]
                ids, audios = [prompt.ids_S for prompt in batch], [prompt.audio for prompt in batch]
                yield places, self.trained.pad(ids, audios)

    def replies(
        self,
        questions: Sequence[Question],
        *,
        change: PromptEdit | None = None,
        tamper: StateEdit | None = None,
        what: str = "answers",
    ) -> list[str]:
        """One reply for each question.

        Args:
            questions: What is asked.
            change: Applied to every prompt.
            tamper: Applied to the model while it reads a batch of prompts.
            what: Said beside the progress bar.
        """
        found = [""] * len(questions)
        batches = list(self.batches(questions, change))
        for places, inputs in track(batches, what, console=messages, transient=True):
            asked = [questions[at] for at in places]
            with tamper(inputs, asked) if tamper else nullcontext():
                replies = self.trained.generate(inputs, max_tokens=MAX_TOKENS[asked[0].kind])
            for at, reply in zip(places, replies, strict=True):
                found[at] = reply.text
        return found

    def without_audio(self, prompt: Prompt) -> Prompt:
        """The same prompt with no audio in it: what can be guessed from the question alone."""
        token = self.trained.student.backbone.audio_token_id(self.trained.student.base)
        return replace(prompt, ids_S=prompt.ids_S[prompt.ids_S != token], audio={})


def other_audio(questions: Sequence[Question]) -> list[Question]:
    """The same questions about another question's recording, one with another answer.

    Raises:
        UserError: a task has one answer only.
    """
    rng = np.random.default_rng(0)
    changed = []
    for question in questions:
        different = [other for other in questions if other.answer != question.answer]
        others = [other for other in different if other.task == question.task] or different
        if not others:
            raise UserError(
                f"task {question.task!r} has one answer only: nothing to swap audio with"
            )
        other = others[int(rng.integers(len(others)))]
        changed.append(
            replace(question, audio=other.audio, offset=other.offset, duration=other.duration,
                    clip_id=other.clip_id)
        )  # fmt: skip
    return changed
