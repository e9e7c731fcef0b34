"""Tests that the target of `reconstruction` is exact in training with half precision."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import torch

from student.batch import IGNORE
from student.config import StreamConfig
from student.distill.streams import open_streams
from student.model.student import build_student, load_backbone
from tests.student.conftest import model_config


def test_reconstruction_target_is_averaged_in_full_precision(
    toy_data: Any, checkpoints: Any, tmp_path: Any
) -> None:
    """With a mean of 20 and a deviation of 0.05, the step of bfloat16 is 0.125. Averages under
    autocast would therefore be off by more than the deviation."""
    expected = {"reconstruction": StreamConfig()}
    options = toy_data.options(
        tmp_path, model=model_config(checkpoints, "qwen2_audio"), streams=expected
    )
    recipe = dataclasses.replace(options.recipe(), arm="coat")
    streams = open_streams([], expected)
    backbone, model, processor = load_backbone(recipe.model, checkpoints("qwen2_audio"))
    student = build_student(recipe, backbone, model, processor, streams).eval()
    assert student.block is not None
    width = len(student.tower_mean_H)
    ids_BS = torch.tensor([[*range(40), *student.block.ids]])
    embedded_BSH = 20 + 0.05 * torch.randn(1, ids_BS.shape[1], width)
    states = SimpleNamespace(hidden_states=[embedded_BSH] * 9, last_hidden_state=embedded_BSH)
    language_model: Any = student.base.model
    language_model.forward = lambda **_: states
    student.tower_mean_H.fill_(20)
    student.tower_std_H.fill_(0.05)
    weights_BNS = torch.rand(1, student.num_frames, ids_BS.shape[1])
    weights_BNS /= weights_BNS.sum(-1, keepdim=True)
    expected_BNH = (weights_BNS.double() @ embedded_BSH.double() - 20) / 0.05
    inputs = {"input_ids": ids_BS, "attention_mask": torch.ones_like(ids_BS)}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        result = student(
            inputs, torch.full_like(ids_BS, IGNORE), weights_BNS, with_answer=False
        ).tower_BNH
    assert result is not None
    torch.testing.assert_close(result.double(), expected_BNH, rtol=0, atol=2e-3)
