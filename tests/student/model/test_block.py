"""Tests for the block: its embedding rows, its place in the prompt, and the end of the answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from manifests.errors import UserError
from student.config import ModelConfig
from student.data.examples import ask
from student.data.prompts import Prompter
from student.model.backbones.families import BACKBONES
from student.model.block import END, START, add_block, block_tokens, template_with_block
from student.model.student import load_backbone
from tests.student.conftest import FAMILIES

Checkpoints = Callable[[str], str]


@pytest.fixture
def loaded(checkpoints: Checkpoints):
    return lambda family="qwen2_audio": load_backbone(
        ModelConfig(path="-", dtype="float32"), checkpoints(family)
    )


def test_every_family_has_an_adapter() -> None:
    assert set(FAMILIES) <= set(BACKBONES)


@pytest.mark.parametrize("family", FAMILIES)
def test_add_block_keeps_existing_rows_bit_by_bit(loaded, family: str) -> None:
    _, model, processor = loaded(family)
    before = model.get_input_embeddings().weight.clone()
    head_before = model.lm_head.weight.clone()
    block = add_block(model, processor.tokenizer, 6)
    table = model.get_input_embeddings().weight
    assert torch.equal(table[: len(before)], before)
    assert torch.equal(model.lm_head.weight[: len(before)], head_before)
    assert len(table) == len(processor.tokenizer) == len(before) + 8
    assert processor.tokenizer.convert_ids_to_tokens(list(block.ids)) == block_tokens(6)


def test_shorter_block_than_in_the_checkpoint_raises_an_error(loaded) -> None:
    _, model, processor = loaded()
    add_block(model, processor.tokenizer, 6)
    with pytest.raises(UserError, match=r"block of 6 positions, and block.tokens is 4"):
        add_block(model, processor.tokenizer, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_word_of_the_block_is_one_token(loaded, family: str) -> None:
    backbone, model, processor = loaded(family)
    block = add_block(model, processor.tokenizer, 3)
    processor.chat_template = template_with_block(
        processor.chat_template, 3, placement="before_response", audio_end=backbone.audio_end
    )
    text = processor.apply_chat_template(ask("?"), tokenize=False, add_generation_prompt=True)
    ids = processor.tokenizer(text)["input_ids"]
    assert tuple(ids[-5:]) == block.ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["before_response", "after_audio"])
def test_only_the_turn_to_generate_has_a_block(loaded, family: str, placement: str) -> None:
    backbone, _, processor = loaded(family)
    original = processor.chat_template
    changed = template_with_block(original, 2, placement=placement, audio_end=backbone.audio_end)
    turns = [
        *ask("one?"),
        {"role": "assistant", "content": [{"type": "text", "text": "ONE"}]},
        *ask("two?"),
    ]

    processor.chat_template = changed
    prompt = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert prompt.count(START) == prompt.count(END) == 1
    block = "".join(block_tokens(2))
    processor.chat_template = original
    assert prompt.replace(block, "") == processor.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    position = prompt.index(block)
    assert position > prompt.index("ONE")
    expected_start = "[/INST]" if family == "voxtral" else "assistant\n"
    assert prompt[:position].endswith(
        expected_start if placement == "before_response" else backbone.audio_end
    )
    assert (position > prompt.index("two?")) == (placement == "before_response")
    processor.chat_template = changed
    assert START not in processor.apply_chat_template(turns, tokenize=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_answer_ends_with_the_end_of_turn_of_the_template(loaded, family: str) -> None:
    backbone, _, processor = loaded(family)
    prompter = Prompter(backbone, processor)
    tokens = processor.tokenizer.convert_ids_to_tokens(prompter.answer("low"))
    end = backbone.special_tokens[2]
    assert tokens[-1] == end
    assert tokens.count(end) == 1
