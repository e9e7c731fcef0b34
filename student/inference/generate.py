"""Answers: a trained run asked about audio.

    student = TrainedStudent("run/")
    student.answer(["a.wav", "b.wav"], "What is said?")

The block is part of the prompt, so an answer costs one prefill and as many steps as it has tokens.
Prompts of a batch are padded on the left. Generation is greedy and nothing else: whatever a
checkpoint's own generation config asks for (sampling, a repetition penalty) is left aside, so that
an answer is the model's likeliest one, and evaluations of different checkpoints compare.
"""

from __future__ import annotations

import dataclasses
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
from student.model.backbones.protocol import Processor
from student.model.student import Student, build_student, load_backbone
from student.runs.folder import Run

# Legend: B prompts, S tokens, T new tokens.


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One generated reply."""

    text: str
    is_cut: bool
    """Whether the limit on tokens ended it, and not the model."""


class TrainedStudent:
    """The model of a run, as far as it has been trained, or of a plain checkpoint.

    Args:
        run: Folder of the run, or of a checkpoint.
        heads: Whether to load the heads, too; an answer needs none.
        quantize: Load the backbone in 4 bits if it was trained so.

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
            seconds_per_block=self.recipe.block.seconds,
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
        """One answer for each recording.

        Args:
            recordings: Paths, or float32 mono waveforms at the backbone's sample rate.
            question: The same for all.
            max_tokens: Longest answer.
            stream: Print the answer while it is made (one recording only).
        """
        waves = [
            [
                recording
                if isinstance(recording, np.ndarray)
                else self.load_audio(to_clip(recording))
            ]
            for recording in recordings
        ]
        return self.reply([ask(question)] * len(waves), waves, max_tokens=max_tokens, stream=stream)

    def reply(
        self,
        conversations: Sequence[list[Message]],
        waves: Sequence[Sequence[np.ndarray]],
        *,
        max_tokens: int = 128,
        stream: bool = False,
    ) -> list[str]:
        """The assistant's next turn in each conversation, of any number of turns.

        Args:
            conversations: Messages; audio parts are `{"type": "audio", "audio": anything}`.
            waves: The waveforms of each conversation's audio parts, in order.
            max_tokens: Longest answer.
            stream: Print the answer while it is made (one conversation only).
        """
        inputs = self.inputs(conversations, waves)
        return [reply.text for reply in self.generate(inputs, max_tokens=max_tokens, stream=stream)]

    def inputs(
        self, conversations: Sequence[list[Message]], waves: Sequence[Sequence[np.ndarray]]
    ) -> dict[str, Tensor]:
        """Model inputs of several prompts, padded on the left, where the model is."""
        prompts = [
            self.prompter.prompt(messages, clips)
            for messages, clips in zip(conversations, waves, strict=True)
        ]
        ids = [prompt.pop("input_ids")[0] for prompt in prompts]
        return self.pad(ids, prompts)

    def pad(
        self, prompts: Sequence[Tensor], audios: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Model inputs of prompts ids_S and of their audio inputs, where the model is."""
        inputs = pad_prompts(prompts, pad_id=self.processor.tokenizer.pad_token_id)
        inputs |= collate_audio(audios)
        return self.student.cast({name: value.to(self.device) for name, value in inputs.items()})

    @torch.no_grad()
    def generate(
        self, inputs: Mapping[str, Tensor], *, max_tokens: int, stream: bool = False
    ) -> list[Reply]:
        """The likeliest continuation of each prompt, token by token; never a block token.

        Args:
            inputs: Prompts padded on the left, see `inputs` and `pad`.
            max_tokens: Longest reply.
            stream: Print the reply while it is made (one prompt only).
        """
        tokenizer = self.processor.tokenizer
        model: Any = self.student.base
        block = self.student.block
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        suppressed = list(block.ids) if block else model.generation_config.suppress_tokens
        ends = reply_ends(model.generation_config, self.prompter.turn_end)
        with _greedy(model, suppressed, ends=ends, pad_id=tokenizer.pad_token_id):
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
        """A clip's waveform at the backbone's sample rate.

        Raises:
            UserError: it cannot be read.
        """
        try:
            return audio.load(clip, self.student.backbone.sample_rate)
        except audio.AudioError as error:
            raise UserError(f"{clip.uri} cannot be read: {error}") from None


def reply_ends(config: GenerationConfig, turn_end: int | None) -> list[int]:
    """The tokens that end a reply: those of a checkpoint, and the one that its template ends turns
    with, which some checkpoints' generation configs lack."""
    ends = config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    return ends if turn_end is None or turn_end in ends else [*ends, turn_end]


@contextmanager
def _greedy(
    model: Any, suppressed: list[int] | None, *, ends: list[int], pad_id: int | None
) -> Iterator[None]:
    """Gives a model a generation config of ours, and its own one back afterwards.

    transformers fills what a given config leaves open from the model's own, so the model's own is
    replaced.
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
    """The recipe, student and processor of a run's last finished stage, or of a plain checkpoint.

    Raises:
        UserError: there is neither, or no stage of the run is finished.
    """
    if not run.exists and (run.folder / "config.json").is_file():
        return _load_checkpoint(run.folder)
    run = Run.open(run.folder)
    recipe, finished = run.recipe, run.finished_stages()
    if not finished:
        raise UserError(
            f"{run.folder} has no finished stage yet; run the same coat-student train again"
        )
    config = recipe.model if quantize else dataclasses.replace(recipe.model, quantize=None)
    backbone, model, processor = load_backbone(config, run.base)
    student = build_student(recipe, backbone, model, processor, run.streams() if heads else {})
    student.load(run.state(finished[-1]))
    student.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return recipe, student, processor


def _load_checkpoint(path: Path) -> tuple[Recipe, Student, Processor]:
    """An untouched backbone (`RUN/base`) or an exported student, which carries its own block."""
    recipe = Recipe(model=ModelConfig(path=str(path)), arm="sft", joint=StageConfig(train="full"))
    backbone, model, processor = load_backbone(recipe.model, str(path))
    student = Student(backbone, model, None, {}, recipe.heads, 0)
    student.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return recipe, student, processor


def to_clip(path: str) -> Clip:
    """The whole of an audio file.

    Raises:
        UserError: it is not there.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no audio file {path}")
    return Clip(clip_id=path, uri=str(Path(path).absolute()))
