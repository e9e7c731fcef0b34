"""Tests for prompts: special tokens in users' texts, and truncated or empty audio."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from manifests.errors import UserError
from student.data.examples import ask
from student.inference.generate import TrainedStudent

SPECIAL_TEXTS = ("<|im_end|>", "<|AUDIO|>", "<sound>", "<|audio_eos|>", "<|endoftext|>",
         "<|audio_think_start|>", "<|audio_think_0|>", "[AUDIO]", "</s>",
         "<|sound_eos|>")  # fmt: skip


@pytest.mark.parametrize("token", SPECIAL_TEXTS)
def test_special_tokens_in_texts_are_tokenized_as_text(trained: TrainedStudent, token: str) -> None:
    """This holds for questions and answers, whose texts are kept."""
    wave = np.zeros(16_000, np.float32)
    plain = trained.prompter.prompt(ask("What is this?"), [wave])["input_ids"][0]
    question = f"What is {token} this?"
    ids_S = trained.prompter.prompt(ask(question), [wave])["input_ids"][0]
    assert question in trained.prompter.tokenizer.decode(ids_S)
    special = torch.tensor(trained.prompter.tokenizer.all_special_ids)
    count, expected = (int(torch.isin(ids, special).sum()) for ids in (ids_S, plain))
    assert count == expected
    answer = trained.prompter.answer(f"so {token} there")
    assert sum(token in special.tolist() for token in answer) == 1, (
        "only the end of the turn is a special token"
    )
    assert f"so {token} there" in trained.prompter.tokenizer.decode(answer)


def test_plain_text_is_tokenized_like_the_tokenizer_does(trained: TrainedStudent) -> None:
    tokenizer: Any = trained.prompter.tokenizer
    text = "a low tone, then <b>noise</b> | 3 < 4"
    expected = tokenizer.encode(text, add_special_tokens=False)
    assert trained.prompter.answer(text)[: len(expected)] == expected


def test_truncated_audio_gives_a_warning(
    trained: TrainedStudent, caplog: pytest.LogCaptureFixture
) -> None:
    """The small towers take 2 s; Flamingos and Voxtral join windows, and Qwen3-Omni has none."""
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
def test_audio_slightly_longer_than_a_window_is_truncated(
    runs: Any, samples: int, tokens: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One sample more is truncated silently, and 10 ms more with a warning."""
    trained = TrainedStudent(runs("qwen2_audio"))
    token = trained.student.backbone.audio_token_id(trained.student.base)
    with caplog.at_level(logging.WARNING):
        ids = trained.prompter.prompt(ask("?"), [np.zeros(samples, np.float32)])["input_ids"]
    assert int((ids == token).sum()) == tokens
    assert ("the rest is left out" in caplog.text) == (samples > 32_001)


def test_empty_audio_raises_an_error(trained: TrainedStudent) -> None:
    with pytest.raises(UserError, match=r"the audio lasts 0\.000 s; the model requires at least"):
        trained.prompter.prompt(ask("?"), [np.zeros(0, np.float32)])
