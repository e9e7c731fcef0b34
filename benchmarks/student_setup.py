"""Provides the clip, question and streams for measuring and computing steps of students."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from student.batch import IGNORE, Batch, Grid, PreparedExample, collate
from student.config import Recipe, StreamConfig
from student.data.examples import ask
from student.data.prompts import Prompter
from student.distill.streams import Stream
from student.model.student import Student

# Legend: S tokens, N frames (K * R).

STREAMS = {"asr.encoder": ("features", 384), "emotion.lld": ("features", 25),
           "pitch.salience": ("pitch", 361), "sound_event.events": ("multilabel", 521),
           "music.notes": ("multilabel", 88), "music.onsets": ("multilabel", 88),
           "music.contours": ("multilabel", 264)}  # fmt: skip
"""The streams of the embedded experts."""
SECONDS, POSITIONS, ANSWER = 10, 32, 24
"""Length of a clip; positions in the block; tokens of an answer."""
QUESTION = "Which sounds can be heard, in which order, and what do the people say about them?"
SYSTEM = "system\nYou are a helpful assistant. user\nAudio 1: assistant\n"


def build_streams(recipe: Recipe) -> dict[str, Stream]:
    """Returns the streams of an arm."""
    if not recipe.distils:
        return {}
    return {
        name: Stream(name=name, kind=kind, dim=dim, config=StreamConfig())
        for name, (kind, dim) in STREAMS.items()
    }


def wave(seconds: float = SECONDS) -> np.ndarray:
    """Returns noise at 16 kHz."""
    samples = np.random.default_rng(0).standard_normal(int(16_000 * seconds))
    return samples.astype(np.float32) * 0.1


def build_batch(
    student: Student, prompter: Prompter, recipe: Recipe, size: int, *, packed: bool = False
) -> Batch:
    """Returns a training batch of `size` equal examples, with targets as wide as the experts'."""
    inputs = prompter.prompt(ask(QUESTION), [wave()])
    prompt_S = inputs.pop("input_ids")[0]
    answer_S = torch.arange(20, 20 + ANSWER)
    num_frames = recipe.block.tokens * recipe.heads.frames_per_position
    streams = build_streams(recipe)
    torch.manual_seed(0)
    audio_id = student.backbone.audio_token_id(student.base)
    example = PreparedExample(
        ids_S=torch.cat([prompt_S, answer_S]),
        labels_S=torch.cat([torch.full_like(prompt_S, IGNORE), answer_S]),
        audio={name: value for name, value in inputs.items() if name != "attention_mask"},
        targets={name: torch.rand(num_frames, each.dim) for name, each in streams.items()},
        audio_weights_NS=(
            _spans(prompt_S == audio_id, num_frames) if recipe.switches.distill_audio else None
        ),
    )
    grid = Grid.from_recipe(recipe, streams)
    return collate([example] * size, grid=grid, pad_id=0, packed=packed)


def _spans(is_audio_S: Tensor, num_frames: int) -> Tensor:
    """Returns weights_NS that average audio tokens over equal spans."""
    weights_NS = torch.zeros(num_frames, len(is_audio_S))
    tokens = is_audio_S.nonzero()[:, 0]
    for frame in range(num_frames):
        first = frame * len(tokens) // num_frames
        last = max((frame + 1) * len(tokens) // num_frames, first + 1)
        weights_NS[frame, tokens[first:last]] = 1 / (last - first)
    return weights_NS
