"""Generates answers of a trained run to questions about audio.

    student = TrainedStudent("run/")
    student.answer(["a.wav", "b.wav"], "What is said?")

The block is part of the prompt, so an answer takes one prefill and one step per token. Prompts of a
batch are padded on the left. Generation is always greedy: settings of a checkpoint's own generation
config (sampling, a repetition penalty) are ignored, so that evaluations of different checkpoints
are comparable.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, TextStreamer

from manifests import audio
from manifests.clips import Clip
from manifests.errors import UserError
from student.batch import collate_audio, pad_prompts
from student.config import ModelConfig, Recipe, StageConfig
from student.data.examples import Message, ask
from student.data.prompts import Prompter
from student.inference.memory import explained_batch_memory
from student.model.backbones.protocol import Processor
from student.model.student import Student, build_student, load_backbone
from student.runs.folder import Run

log = logging.getLogger(__name__)

# Legend: B prompts, S tokens, T new tokens.


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One generated reply."""

    text: str
    is_cut: bool
    """Whether it was truncated at the token limit."""


class TrainedStudent:
    """The model of a run after its last finished stage, or of a plain checkpoint.

    Args:
        run: Folder of the run, or of a checkpoint.
        heads: Whether to load the heads, too; they are not needed for answers.
        quantize: Whether to load the backbone in 4 bits if it was trained that way.

    Raises:
        UserError: there is no run, or none of its stages is finished.
    """

    def __init__(self, run: str | Path, *, heads: bool = False, quantize: bool = True) -> None:
        self.run = Run(run)
        self.recipe, self.student, self.processor = load_student(
            self.run, heads=heads, quantize=quantize
        )
        self.prompter = Prompter(
            self.student.backbone,
            self.processor,
            seconds_per_block=self.recipe.block.span_seconds,
        )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.student.tower_mean_H.device

    def answer(
        self,
        recordings: Sequence[str | np.ndarray],
        question: str,
        *,
        max_tokens: int = 128,
        stream: bool = False,
    ) -> list[str]:
        """Generates one answer for each recording.

        Args:
            recordings: Paths, or float32 mono waveforms at the backbone's sample rate.
            question: The question about each of them.
            max_tokens: Maximum length of an answer.
            stream: Print the answer while it is generated (one recording only).
        """
        waves = [
            [
                recording
                if isinstance(recording, np.ndarray)
                else self.load_audio(to_clip(recording))
            ]
            for recording in recordings
        ]
        names = [
            ["an audio" if isinstance(recording, np.ndarray) else str(recording)]
            for recording in recordings
        ]
        return self.reply(
            [ask(question)] * len(waves), waves, names=names, max_tokens=max_tokens, stream=stream
        )

    def reply(
        self,
        conversations: Sequence[list[Message]],
        waves: Sequence[Sequence[np.ndarray]],
        *,
        names: Sequence[Sequence[str]] | None = None,
        max_tokens: int = 128,
        stream: bool = False,
    ) -> list[str]:
        """Generates the assistant's next turn in each conversation, of any number of turns.

        Args:
            conversations: Messages; audio parts are `{"type": "audio", "audio": anything}`.
            waves: The waveforms of each conversation's audio parts, in order.
            names: Their names in warnings.
            max_tokens: Maximum length of an answer.
            stream: Print the answer while it is generated (one conversation only).
        """
        inputs = self.inputs(conversations, waves, names)
        return [reply.text for reply in self.generate(inputs, max_tokens=max_tokens, stream=stream)]

    def inputs(
        self,
        conversations: Sequence[list[Message]],
        waves: Sequence[Sequence[np.ndarray]],
        names: Sequence[Sequence[str]] | None = None,
    ) -> dict[str, Tensor]:
        """Prepares the inputs of several prompts, padded on the left, on the model's device."""
        prompts = [
            self.prompter.prompt(messages, clips, names=called)
            for messages, clips, called in zip(
                conversations, waves, names or [None] * len(waves), strict=True
            )
        ]
        ids = [prompt.pop("input_ids")[0] for prompt in prompts]
        return self.pad(ids, prompts)

    def pad(
        self, prompts: Sequence[Tensor], audios: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Pads prompts ids_S on the left, and moves them and their audio inputs to the model's
        device."""
        inputs = pad_prompts(prompts, pad_id=self.processor.tokenizer.pad_token_id)
        inputs |= collate_audio(audios)
        return self.student.cast({name: value.to(self.device) for name, value in inputs.items()})

    @torch.no_grad()
    def generate(
        self, inputs: Mapping[str, Tensor], *, max_tokens: int, stream: bool = False
    ) -> list[Reply]:
        """Generates greedy continuations of prompts; block tokens are suppressed.

        Args:
            inputs: Prompts padded on the left, see `inputs` and `pad`.
            max_tokens: Maximum length of a reply.
            stream: Print the reply while it is generated (one prompt only).

        Raises:
            UserError: memory ran out.
        """
        tokenizer = self.processor.tokenizer
        model: Any = self.student.base
        block = self.student.block
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        suppressed = list(block.ids) if block else model.generation_config.suppress_tokens
        ends = reply_ends(model.generation_config, self.prompter.turn_end)
        with (
            _greedy(model, suppressed, ends=ends, pad_id=tokenizer.pad_token_id),
            explained_batch_memory(len(inputs["input_ids"])),
        ):
            ids_BS = model.generate(
                **inputs, max_new_tokens=max_tokens, streamer=streamer if stream else None
            )
        new_BT = ids_BS[:, inputs["input_ids"].shape[1] :].cpu()
        ended_B = torch.isin(new_BT, torch.tensor(ends)).any(1)
        texts = tokenizer.batch_decode(new_BT, skip_special_tokens=True)
        return [
            Reply(text=text, is_cut=new_BT.shape[1] >= max_tokens and not ended)
            for text, ended in zip(texts, ended_B.tolist(), strict=True)
        ]

    def load_audio(self, clip: Clip) -> np.ndarray:
        """Loads a clip's waveform at the backbone's sample rate.

        Raises:
            UserError: the audio cannot be read.
        """
        try:
            return audio.load(clip, self.student.backbone.sample_rate)
        except audio.AudioError as error:
            raise UserError(f"{clip.uri} cannot be read: {error}") from None


def reply_ends(config: GenerationConfig, turn_end: int | None) -> list[int]:
    """The tokens that end a reply: those of a checkpoint, and the one with which its template ends
    turns, which is missing in some generation configs."""
    ends = config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    return ends if turn_end is None or turn_end in ends else [*ends, turn_end]


@contextmanager
def _greedy(
    model: Any, suppressed: list[int] | None, *, ends: list[int], pad_id: int | None
) -> Iterator[None]:
    """A context in which a model has our generation config.

    transformers fills missing fields of a passed config from the model's own, so the model's own is
    replaced and restored afterwards.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        suppress_tokens=suppressed,
        bos_token_id=own.bos_token_id,
        eos_token_id=ends or None,
        pad_token_id=pad_id,
    )
    try:
        yield
    finally:
        model.generation_config = own


def load_student(
    run: Run, *, heads: bool = False, quantize: bool = True
) -> tuple[Recipe, Student, Processor]:
    """Loads the recipe, student and processor of a run's last finished stage or a plain checkpoint.

    A warning names a stage of the run that is not finished.

    Raises:
        UserError: there is neither, or no stage of the run is finished.
    """
    if not run.exists and (run.folder / "config.json").is_file():
        return _load_checkpoint(run.folder)
    run = Run.open(run.folder)
    recipe, state = run.recipe, run.last_state()
    if unfinished := [name for name in recipe.stages() if name not in run.finished_stages()]:
        log.warning(
            "%s: the stage %s is not finished; these are the weights of %s",
            run.folder, unfinished[0], state.parent.name,
        )  # fmt: skip
    config = recipe.model if quantize else dataclasses.replace(recipe.model, quantize=None)
    backbone, model, processor = load_backbone(config, run.base)
    student = build_student(recipe, backbone, model, processor, run.streams() if heads else {})
    student.load(state)
    student.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return recipe, student, processor


def _load_checkpoint(path: Path) -> tuple[Recipe, Student, Processor]:
    """Loads an unmodified backbone (`RUN/base`) or an exported student, which has its own block."""
    recipe = Recipe(model=ModelConfig(path=str(path)), arm="sft", joint=StageConfig(train="full"))
    backbone, model, processor = load_backbone(recipe.model, str(path))
    student = Student(backbone, model, None, {}, recipe.heads, 0)
    student.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return recipe, student, processor


def to_clip(path: str) -> Clip:
    """Builds a clip of a whole audio file.

    Raises:
        UserError: the file does not exist.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no audio file {Path(path).absolute()}")
    return Clip(clip_id=path, uri=str(Path(path).absolute()))
