"""Answers: a trained run asked about audio.

    student = TrainedStudent("run/")
    student.answer(["a.wav", "b.wav"], "What is said?")

The block is part of the prompt, so an answer costs one prefill and as many steps as it has tokens;
heads are loaded on demand. Prompts of a batch are padded on the left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TextStreamer

from manifests import audio
from manifests.clips import Clip
from manifests.errors import UserError
from student.config import ModelConfig, Recipe, StageConfig, load_recipe
from student.data.dataset import Grid, Prompter, collate
from student.data.examples import Message, ask
from student.distill.streams import Stream
from student.model.backbones.protocol import Processor
from student.model.student import Student, build_student, load_backbone
from student.training.trainer import STATE_FILE

# Legend: B prompts, S tokens.


class TrainedStudent:
    """The model of a run, as far as it has been trained.

    Args:
        run: Folder of the run.
        quantize: Load the backbone in 4 bits if it was trained so.
        streams: Those whose heads are loaded, too; an answer needs none.

    Raises:
        UserError: there is no run, or none of its stages is finished.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        quantize: bool = True,
        streams: Mapping[str, Stream] | None = None,
    ) -> None:
        self.recipe, self.student, self.processor = load_run(
            Path(run), quantize=quantize, streams=streams
        )
        self.prompter = Prompter(self.student.backbone, self.processor)

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
            [recording if isinstance(recording, np.ndarray) else self.hear(as_clip(recording))]
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
        tokenizer = self.prompter.tokenizer
        model: Any = self.student.base
        block = self.student.block
        with torch.no_grad():
            ids_BS = model.generate(
                **inputs,
                max_new_tokens=max_tokens,
                do_sample=False,
                suppress_tokens=list(block.ids) if block else None,
                pad_token_id=tokenizer.pad_token_id,
                streamer=_streamer(tokenizer) if stream else None,
            )
        prompt_length = inputs["input_ids"].shape[1]
        return tokenizer.batch_decode(ids_BS[:, prompt_length:], skip_special_tokens=True)

    def inputs(
        self, conversations: Sequence[list[Message]], waves: Sequence[Sequence[np.ndarray]]
    ) -> dict[str, torch.Tensor]:
        """Model inputs of several prompts, padded on the left."""
        rows = []
        for messages, heard in zip(conversations, waves, strict=True):
            prompt = self.prompter.prompt(messages, heard)
            ids_S = prompt.pop("input_ids")[0]
            rows.append({"input_ids": ids_S, "labels": ids_S, "audio": prompt, "targets": {},
                         "audio_weights": None})  # fmt: skip
        pad_id = self.processor.tokenizer.pad_token_id
        batch = collate(rows, grid=Grid(streams={}, num_frames=0), pad_id=pad_id, left=True)
        device = self.student.tower_mean_H.device
        return self.student.cast(
            {name: value.to(device) for name, value in batch["inputs"].items()}
        )

    def hear(self, clip: Clip) -> np.ndarray:
        """A clip's waveform at the backbone's sample rate.

        Raises:
            UserError: it cannot be read.
        """
        try:
            return audio.load(clip, self.student.backbone.sample_rate)
        except audio.AudioError as error:
            raise UserError(f"{clip.uri} cannot be heard: {error}") from None


def load_run(
    run: Path, *, quantize: bool = True, streams: Mapping[str, Stream] | None = None
) -> tuple[Recipe, Student, Processor]:
    """The recipe, student (heads of `streams` alone) and processor of a run's last finished
    stage; of a plain checkpoint, itself."""
    if (run / "config.json").is_file():
        return _load_checkpoint(run)
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run} is not a run: it has no recipe.yaml; see coat-student train --out")
    recipe = load_recipe(run / "recipe.yaml")
    finished = [
        run / name / STATE_FILE for name in recipe.stages() if (run / name / STATE_FILE).is_file()
    ]
    if not finished:
        raise UserError(f"{run} has no finished stage yet; run the same coat-student train again")
    base = recipe.model.path or str(run / "base")
    config = recipe.model if quantize else dataclasses.replace(recipe.model, quantize=None)
    backbone, model, processor = load_backbone(config, base)
    student = build_student(recipe, backbone, model, processor, streams or {})
    student.load(finished[-1])
    student.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return recipe, student, processor


def _load_checkpoint(path: Path) -> tuple[Recipe, Student, Processor]:
    """An untouched backbone (`RUN/base`) or an exported student, which carries its own block."""
    recipe = Recipe(model=ModelConfig(path=str(path)), arm="sft", joint=StageConfig(train="full"))
    backbone, model, processor = load_backbone(recipe.model, str(path))
    student = build_student(recipe, backbone, model, processor, {})
    student.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return recipe, student, processor


def as_clip(path: str) -> Clip:
    """The whole of an audio file.

    Raises:
        UserError: it is not there.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no audio file {path}")
    return Clip(clip_id=path, uri=str(Path(path).absolute()))


def _streamer(tokenizer: Any) -> TextStreamer:
    return TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
