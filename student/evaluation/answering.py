"""Asks a student many questions, optionally with a changed prompt or block.

Decoding is greedy, in batches of questions of similar length. Batches are prepared one at a time,
so that memory does not grow with the number of questions. A student is a run or a plain checkpoint:
the unmodified model (`RUN/base`) or an export.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from manifests.console import messages
from manifests.errors import UserError
from manifests.progress import progress
from student.evaluation.questions import Question
from student.inference.generate import TrainedStudent

# Legend: B prompts, S tokens.

CACHE_BYTES = 512 * 2**20
"""Maximum memory of cached prompts in bytes: 340 clips of 30 s, 33 of 300 s."""
CHARACTERS_PER_SECOND = 100
"""25 audio tokens per second, and about four characters per text token."""


@dataclass(frozen=True, kw_only=True)
class TokenLimits:
    """Maximum lengths of replies in tokens; longer replies are truncated and counted."""

    answer: int = 64
    transcription: int = 256

    def limit(self, kind: str) -> int:
        """The limit for a kind of question."""
        return self.transcription if kind == "transcription" else self.answer


@dataclass(frozen=True)
class Prompt:
    """One question as model inputs, before padding."""

    question: Question
    ids_S: Tensor
    audio: dict[str, Tensor]
    """Inputs of the audio tower; empty for a prompt without audio."""

    @property
    def num_bytes(self) -> int:
        """Size of the prompt in bytes."""
        return sum(value.nbytes for value in (self.ids_S, *self.audio.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply of a student to one question."""

    text: str = ""
    is_cut: bool = False
    """Whether it was truncated at the token limit."""
    failure: str = ""
    """The reason why the question could not be asked; empty if it was asked."""


@dataclass(frozen=True)
class QuestionBatch:
    """Some questions as model inputs, padded on the left."""

    places: list[int]
    """Positions of the questions among all questions."""
    questions: list[Question]
    inputs: dict[str, Tensor]


PromptEdit = Callable[[Prompt], Prompt]
StateEdit = Callable[[QuestionBatch], AbstractContextManager[Any]]
"""Maps a batch to a context in which the model's states are changed."""


@dataclass
class QuestionRunner:
    """Asks a student questions; caches prompts, because conditions reuse them."""

    path: str | Path
    batch_size: int = 16
    limits: TokenLimits = field(default_factory=TokenLimits)
    cache_bytes: int = CACHE_BYTES

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self.trained = TrainedStudent(self.path)
        self.failures: dict[Question, str] = {}
        """Questions whose audio cannot be read -> reason."""
        self._prompts: OrderedDict[Question, Prompt] = OrderedDict()
        self._kept_bytes = 0

    def prompt(self, question: Question) -> Prompt:
        """Prepares a question as model inputs.

        Raises:
            UserError: its audio cannot be read.
        """
        if question in self._prompts:
            self._prompts.move_to_end(question)
            return self._prompts[question]
        wave = self.trained.load_audio(question.clip)
        inputs = self.trained.prompter.prompt(question.messages(), [wave], names=[question.audio])
        ids_S = inputs.pop("input_ids")[0]
        prompt = Prompt(question, ids_S, inputs)
        self._prompts[question] = prompt
        self._kept_bytes += prompt.num_bytes
        while self._kept_bytes > self.cache_bytes and len(self._prompts) > 1:
            _, oldest = self._prompts.popitem(last=False)
            self._kept_bytes -= oldest.num_bytes
        return prompt

    def batches(
        self,
        questions: Sequence[Question],
        edit_prompt: PromptEdit | None = None,
        *,
        done: Container[int] = (),
    ) -> Iterator[QuestionBatch]:
        """Yields batches, ordered by kind and task, longest first.

        Questions whose audio cannot be read are skipped and added to `failures`.

        Args:
            questions: The questions.
            edit_prompt: Applied to every prompt.
            done: Positions of questions that are left out. The others are in the same batches as
                without it, so their replies are equal to the last bit.
        """
        for kind in sorted({question.kind for question in questions}):
            order = [place for place, each in enumerate(questions) if each.kind == kind]
            order.sort(
                key=lambda place: (questions[place].task, -_estimated_length(questions[place]))
            )
            for start in range(0, len(order), self.batch_size):
                chunk = order[start : start + self.batch_size]
                places = [place for place in chunk if place not in done]
                batch = self._batch(questions, places, edit_prompt)
                if batch is not None:
                    yield batch

    def batch(self, questions: Sequence[Question]) -> QuestionBatch:
        """Prepares one batch with all questions, in order.

        Raises:
            UserError: the audio of one cannot be read.
        """
        prompts = [self.prompt(question) for question in questions]
        return QuestionBatch(list(range(len(prompts))), list(questions), self._padded(prompts))

    def replies(
        self,
        questions: Sequence[Question],
        *,
        edit_prompt: PromptEdit | None = None,
        edit_states: StateEdit | None = None,
        description: str = "answers",
        kept: Mapping[str, Reply] | None = None,
        keep: Callable[[Mapping[str, Reply]], None] | None = None,
    ) -> list[Reply]:
        """Asks all questions, and returns one reply for each.

        Args:
            questions: The questions.
            edit_prompt: Applied to every prompt.
            edit_states: Applied to the model while it processes a batch of prompts.
            description: Label of the progress bar.
            kept: Question id -> its reply, for questions that are not asked again.
            keep: Receives the replies of each batch as soon as they are made.
        """
        kept = kept or {}
        replies = [kept.get(question.id, Reply()) for question in questions]
        done = {place for place, question in enumerate(questions) if question.id in kept}
        if len(done) == len(questions):
            return replies
        if done:
            messages.print(
                f"{description}: {len(done):,} of {len(questions):,} replies are kept from before",
                markup=False,
            )
        with progress(description, len(questions) - len(done), "questions") as advance:
            for batch in self.batches(questions, edit_prompt, done=done):
                limit = self.limits.limit(batch.questions[0].kind)
                with edit_states(batch) if edit_states else nullcontext():
                    generated = self.trained.generate(batch.inputs, max_tokens=limit)
                made = {}
                for place, reply in zip(batch.places, generated, strict=True):
                    replies[place] = Reply(text=reply.text, is_cut=reply.is_cut)
                    made[questions[place].id] = replies[place]
                if keep:
                    keep(made)
                advance(len(batch.places))
        return [
            Reply(failure=self.failures[question]) if question in self.failures else reply
            for question, reply in zip(questions, replies, strict=True)
        ]

    def without_audio(self, prompt: Prompt) -> Prompt:
        """The same prompt without audio, to measure what can be guessed from the question."""
        token = self.trained.student.backbone.audio_token_id(self.trained.student.base)
        return replace(prompt, ids_S=prompt.ids_S[prompt.ids_S != token], audio={})

    def _batch(
        self, questions: Sequence[Question], places: list[int], edit_prompt: PromptEdit | None
    ) -> QuestionBatch | None:
        readable, prompts = [], []
        for place in places:
            question = questions[place]
            if question in self.failures:
                continue
            try:
                prompts.append(self.prompt(question))
            except UserError as error:
                self.failures[question] = str(error)
                continue
            readable.append(place)
        if not readable:
            return None
        prompts = [edit_prompt(prompt) for prompt in prompts] if edit_prompt else prompts
        return QuestionBatch(
            readable, [questions[place] for place in readable], self._padded(prompts)
        )

    def _padded(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        return self.trained.pad(
            [prompt.ids_S for prompt in prompts], [prompt.audio for prompt in prompts]
        )


def _estimated_length(question: Question) -> float:
    """A key that grows with the length of the prompt; unknown lengths count as long."""
    seconds = question.duration if question.duration is not None else 1e4
    return seconds * CHARACTERS_PER_SECOND + len(question.text)
