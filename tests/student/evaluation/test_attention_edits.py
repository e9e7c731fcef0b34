"""Tests of use: audio or block hidden from a finished student, its attention, its block states."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from student.data.examples import ask
from student.evaluation.analysis.attention_edits import (
    attention_shares,
    block_states,
    collapse,
    hidden_from_text,
    position_groups,
)
from student.inference.generate import TrainedStudent


def prompts(world: Any, trained: TrainedStudent, *, noise: bool = False) -> dict[str, torch.Tensor]:
    """Three questions of different lengths, padded on the left."""
    waves = [trained.load_audio(clip) for clip in world.clips[:3]]
    if noise:
        draw = torch.Generator().manual_seed(0)
        waves = [(0.1 * torch.randn(len(wave), generator=draw)).numpy() for wave in waves]
    return trained.inputs([ask("Which note?")] * 3, [[wave] for wave in waves])


def last_states(trained: TrainedStudent, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """states_BH from which the first word is read."""
    student = trained.student
    with torch.no_grad():
        outputs = student.base.model(**inputs, **student.backbone.positions(inputs))
    return outputs.last_hidden_state[:, -1]


def test_hidden_audio_reaches_text_through_the_block(world: Any, trained: TrainedStudent) -> None:
    student = trained.student
    inputs, other = prompts(world, trained), prompts(world, trained, noise=True)
    intact = last_states(trained, inputs)
    hidden = []
    for each in (inputs, other):
        with hidden_from_text(student, each, "audio"):
            hidden.append(last_states(trained, each))
    assert not torch.allclose(hidden[0], intact)
    assert not torch.equal(*hidden)  # the block still hears
    both = []
    for each in (inputs, other):
        with hidden_from_text(student, each, "audio"), hidden_from_text(student, each, "block"):
            both.append(last_states(trained, each))
    assert torch.equal(*both)  # nothing is left of the clip
    assert torch.equal(last_states(trained, inputs), intact)


def test_what_is_hidden_stays_hidden_while_a_reply_is_made(
    world: Any, trained: TrainedStudent
) -> None:
    """Step by step with a cache, and in one pass over prompt and reply: the same tokens."""
    student, inputs = trained.student, prompts(world, trained)
    with hidden_from_text(student, inputs, "audio"), torch.no_grad():
        ids_BS = student.base.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=[])
    mask_BS = torch.nn.functional.pad(inputs["attention_mask"], (0, 4), value=1)
    whole = inputs | {"input_ids": ids_BS, "attention_mask": mask_BS}
    with hidden_from_text(student, whole, "audio"), torch.no_grad():
        outputs = student.base.model(**whole, **student.backbone.positions(whole))
    chosen_BS = student.base.lm_head(outputs.last_hidden_state).argmax(-1)
    assert torch.equal(chosen_BS[:, -5:-1], ids_BS[:, -4:])


def test_attention_shares_sum_to_one(world: Any, trained: TrainedStudent) -> None:
    inputs = prompts(world, trained)
    shares = attention_shares(trained.student, [inputs])
    layers = trained.student.base.config.get_text_config().num_hidden_layers
    assert {len(each) for each in shares.values()} == {layers}
    assert [sum(each) for each in zip(*shares.values(), strict=True)] == pytest.approx([1] * layers)
    groups = position_groups(trained.student, inputs["input_ids"])
    assert all(bool(group.any()) for group in groups.values())


def test_collapse_distinguishes_constant_from_varying_states(
    world: Any, trained: TrainedStudent
) -> None:
    states = torch.randn(6, 4, 16, generator=torch.Generator().manual_seed(0))
    dead = collapse(states[:1].expand(6, 4, 16), states[:1].expand(6, 4, 16))
    assert dead == pytest.approx({"cosine_between_clips": 1.0, "change_with_other_audio": 0.0})
    alive = collapse(states, states.flip(0))
    assert abs(alive["cosine_between_clips"]) < 0.3
    assert alive["change_with_other_audio"] > 1
    own = block_states(trained.student, prompts(world, trained))
    assert own.shape[:2] == (3, 4)
    assert not torch.equal(own, block_states(trained.student, prompts(world, trained, noise=True)))
