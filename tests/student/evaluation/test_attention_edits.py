"""Tests for hiding audio or block from a trained student, its attention, and its block states."""

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


def prompts(
    toy_data: Any, trained: TrainedStudent, *, noise: bool = False
) -> dict[str, torch.Tensor]:
    """Returns three prompts of different lengths, padded on the left."""
    waves = [trained.load_audio(clip) for clip in toy_data.clips[:3]]
    if noise:
        draw = torch.Generator().manual_seed(0)
        waves = [(0.1 * torch.randn(len(wave), generator=draw)).numpy() for wave in waves]
    return trained.inputs([ask("Which note?")] * 3, [[wave] for wave in waves])


def last_states(trained: TrainedStudent, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns states_BH that predict the first token of the answers."""
    student = trained.student
    with torch.no_grad():
        outputs = student.base.model(**inputs, **student.backbone.positions(inputs))
    return outputs.last_hidden_state[:, -1]


def test_hidden_audio_affects_text_through_the_block(
    toy_data: Any, trained: TrainedStudent
) -> None:
    student = trained.student
    inputs, other = prompts(toy_data, trained), prompts(toy_data, trained, noise=True)
    intact = last_states(trained, inputs)
    hidden = []
    for each in (inputs, other):
        with hidden_from_text(student, each, "audio"):
            hidden.append(last_states(trained, each))
    assert not torch.allclose(hidden[0], intact)
    assert not torch.equal(*hidden)  # the block still attends to the audio
    both = []
    for each in (inputs, other):
        with hidden_from_text(student, each, "audio"), hidden_from_text(student, each, "block"):
            both.append(last_states(trained, each))
    assert torch.equal(*both)  # no information about the clip is left
    assert torch.equal(last_states(trained, inputs), intact)


def test_hidden_positions_stay_hidden_during_generation(
    toy_data: Any, trained: TrainedStudent
) -> None:
    """Generation with a cache must give the same tokens as one pass over prompt and reply."""
    student, inputs = trained.student, prompts(toy_data, trained)
    with hidden_from_text(student, inputs, "audio"), torch.no_grad():
        ids_BS = student.base.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=[])
    mask_BS = torch.nn.functional.pad(inputs["attention_mask"], (0, 4), value=1)
    whole = inputs | {"input_ids": ids_BS, "attention_mask": mask_BS}
    with hidden_from_text(student, whole, "audio"), torch.no_grad():
        outputs = student.base.model(**whole, **student.backbone.positions(whole))
    chosen_BS = student.base.lm_head(outputs.last_hidden_state).argmax(-1)
    assert torch.equal(chosen_BS[:, -5:-1], ids_BS[:, -4:])


def test_attention_shares_sum_to_one(toy_data: Any, trained: TrainedStudent) -> None:
    inputs = prompts(toy_data, trained)
    shares = attention_shares(trained.student, [inputs])
    layers = trained.student.base.config.get_text_config().num_hidden_layers
    assert {len(each) for each in shares.values()} == {layers}
    assert [sum(each) for each in zip(*shares.values(), strict=True)] == pytest.approx([1] * layers)
    groups = position_groups(trained.student, inputs["input_ids"])
    assert all(bool(group.any()) for group in groups.values())


def test_collapse_distinguishes_constant_from_varying_states(
    toy_data: Any, trained: TrainedStudent
) -> None:
    states = torch.randn(6, 4, 16, generator=torch.Generator().manual_seed(0))
    constant = collapse(states[:1].expand(6, 4, 16), states[:1].expand(6, 4, 16))
    assert constant == pytest.approx({"cosine_between_clips": 1.0, "change_with_other_audio": 0.0})
    varying = collapse(states, states.flip(0))
    assert abs(varying["cosine_between_clips"]) < 0.3
    assert varying["change_with_other_audio"] > 1
    states_of_clips = block_states(trained.student, prompts(toy_data, trained))
    assert states_of_clips.shape[:2] == (3, 4)
    assert not torch.equal(
        states_of_clips, block_states(trained.student, prompts(toy_data, trained, noise=True))
    )
