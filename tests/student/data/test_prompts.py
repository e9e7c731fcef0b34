"""Tests that texts of users contain no special tokens, and that truncated audio is reported."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from manifests.errors import UserError
from student.data.examples import ask
from student.inference.generate import TrainedStudent

SPELT = ("<|im_end|>", "<|AUDIO|>", "<sound>", "<|audio_eos|>", "<|endoftext|>",
         "<|audio_think_start|>", "<|audio_think_0|>", "[AUDIO]", "</s>",
         "<|sound_eos|>")  # fmt: skip


@pytest.mark.parametrize("token", SPELT)
def test_special_tokens_that_are_spelled_out_stay_text(trained: TrainedStudent, token: str) -> None:
    """In a question, in an earlier turn and in an answer; the text itself is kept."""
    wave = np.zeros(16_000, np.float32)
    plain = trained.prompter.prompt(ask("What is this?"), [wave])["input_ids"][0]
    question = f"What is {token} this?"
    ids_S = trained.prompter.prompt(ask(question), [wave])["input_ids"][0]
    assert question in trained.prompter.tokenizer.decode(ids_S)
    special = torch.tensor(trained.prompter.tokenizer.all_special_ids)
    count, expected = (int(torch.isin(ids, special).sum()) for ids in (ids_S, plain))
    assert count == expected
    answer = trained.prompter.answer(f"so {token} there")
    assert sum(token in special.tolist() for token in answer) == 1, "the end of the turn alone"
    assert f"so {token} there" in trained.prompter.tokenizer.decode(answer)


def test_text_without_special_tokens_is_tokenized_as_ever(trained: TrainedStudent) -> None:
    tokenizer: Any = trained.prompter.tokenizer
    text = "a low tone, then <b>noise</b> | 3 < 4"
    expected = tokenizer.encode(text, add_special_tokens=False)
    assert trained.prompter.answer(text)[: len(expected)] == expected


def test_truncated_audio_is_reported(
    trained: TrainedStudent, caplog: pytest.LogCaptureFixture
) -> None:
    """The small towers take 2 s; the Flamingos and Voxtral join windows up to many minutes,
    and Qwen3-Omni has none."""
    wave = np.zeros(3 * 16_000, np.float32)
    token = trained.student.backbone.audio_token_id(trained.student.base)
    with caplog.at_level(logging.WARNING):
        ids = trained.prompter.prompt(ask("?"), [wave])["input_ids"]
    if trained.prompter.window_s >= 600:
        backbone = trained.student.backbone  # Voxtral fills two windows of 25 tokens
        expected = 50 if backbone.pads_audio else 3 * backbone.tokens_per_second
        assert int((ids == token).sum()) == expected
        assert not caplog.records
    else:
        assert int((ids == token).sum()) == 50
        assert "lasts 3.00 s, and the model's window is 2 s" in caplog.text


@pytest.mark.parametrize(("samples", "tokens"), [(32_000, 50), (32_001, 50), (32_160, 50)])
def test_audio_of_a_window_and_a_little_more(
    runs: Any, samples: int, tokens: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Exactly a window is heard whole; a sample more is cut, and 10 ms more are cut and said."""
    trained = TrainedStudent(runs("qwen2_audio"))
    token = trained.student.backbone.audio_token_id(trained.student.base)
    with caplog.at_level(logging.WARNING):
        ids = trained.prompter.prompt(ask("?"), [np.zeros(samples, np.float32)])["input_ids"]
    assert int((ids == token).sum()) == tokens
    assert ("the rest is left out" in caplog.text) == (samples > 32_001)


def test_audio_without_a_sample_is_one_line(trained: TrainedStudent) -> None:
    with pytest.raises(UserError, match=r"the audio lasts 0\.000 s; the model requires at least"):
        trained.prompter.prompt(ask("?"), [np.zeros(0, np.float32)])
