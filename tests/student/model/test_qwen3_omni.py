"""Tests for what is special in Qwen3-Omni: a tower with chunks of a second, and experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe

from manifests.errors import UserError
from student.batch import collate_audio
from student.config import ModelConfig, StageConfig
from student.data.examples import ask
from student.data.prompts import Prompter
from student.inference.generate import TrainedStudent
from student.lora_settings import LoraSettings
from student.model.adapters import add_lora
from student.model.backbones.qwen3_omni import Qwen3Omni, count_tokens
from student.model.student import build_student, load_backbone
from student.release.export import export
from student.train import train
from tests.student.conftest import RATE, model_config, states

FAMILY = "qwen3_omni_moe"
STAGE = {"batch_size": 4, "max_steps": 3, "save_steps": 9, "log_steps": 1, "warmup": 0.0}
Loaded = tuple[Any, Any, Any]


@pytest.fixture
def loaded(checkpoints: Callable[[str], str]) -> Loaded:
    """Adapter, model and processor of the small checkpoint."""
    path = checkpoints(FAMILY)
    return load_backbone(ModelConfig(path=path, dtype="float32"), path)


def noise(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal(int(seconds * RATE)).astype(np.float32)


def test_count_tokens_matches_the_tower() -> None:
    frames = torch.arange(1, 501)
    expected = modeling_qwen3_omni_moe._get_feat_extract_output_lengths(frames)
    assert [count_tokens(int(number)) for number in frames] == expected.tolist()


@pytest.mark.parametrize("seconds", [0.613, 1.0, 7.3])
def test_original_classes_make_the_same_inputs(
    loaded: Loaded, checkpoints: Any, seconds: float
) -> None:
    """The code is that of docs/serve.md; the audio may exceed the extractor's window of 2 s."""
    backbone, _, processor = loaded
    tokenizer = AutoTokenizer.from_pretrained(checkpoints(FAMILY))
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoints(FAMILY))
    turns = [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"},
                                          {"type": "text", "text": "What is said?"}]}]  # fmt: skip
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    audio = extractor(
        noise(seconds), sampling_rate=RATE, padding=True, truncation=False,
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    tokens = count_tokens(int(audio["attention_mask"].sum()))
    ids = tokenizer(prompt.replace("<|audio_pad|>", "<|audio_pad|>" * tokens), return_tensors="pt")
    ours = Prompter(backbone, processor).prompt(ask("What is said?"), [noise(seconds)])
    assert torch.equal(ours["input_ids"], ids["input_ids"])
    assert torch.equal(ours["input_features"], audio["input_features"])
    assert torch.equal(ours["feature_attention_mask"], audio["attention_mask"].long())


def test_two_audios_in_a_prompt_give_the_features_of_single_ones(loaded: Loaded) -> None:
    backbone, model, processor = loaded
    waves = [noise(0.6), noise(1.9)]
    part = "<|audio_start|><|audio_pad|><|audio_end|>"
    both = backbone.prepare(processor, f"a {part} b {part} c", waves)
    assert both["feature_attention_mask"].sum(-1).tolist() == [60, 190]
    with torch.no_grad():
        result = model.get_audio_features(**_audio(both)).last_hidden_state
        separate = [
            model.get_audio_features(
                **_audio(backbone.prepare(processor, f"a {part}", [wave]))
            ).last_hidden_state
            for wave in waves
        ]
    torch.testing.assert_close(result, torch.cat(separate), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seconds", [(0.61, 0.75), (0.4, 0.97, 0.55), (0.5, 1.0), (0.7, 2.3)])
def test_short_audios_of_a_batch_equal_those_of_single_prompts(
    loaded: Loaded, seconds: tuple[float, ...]
) -> None:
    """If all were below a second, the tokens of all but the first were read from wrong places."""
    backbone, model, processor = loaded
    prompts = [
        backbone.prepare(processor, "a <|audio_start|><|audio_pad|><|audio_end|>", [noise(each)])
        for each in seconds
    ]
    batch = collate_audio([_audio(prompt) for prompt in prompts])
    with torch.no_grad():
        together = model.get_audio_features(**batch).last_hidden_state
        alone = [model.get_audio_features(**_audio(prompt)).last_hidden_state for prompt in prompts]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def _audio(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in inputs.items() if name != "input_ids"}


def test_checkpoint_has_the_names_of_published_weights(checkpoints: Callable[[str], str]) -> None:
    """transformers stacks the experts of a layer in one tensor; files have separate tensors."""
    weights = load_file(f"{checkpoints(FAMILY)}/model.safetensors")
    names = {name.replace(".0.", ".N.") for name in weights if ".layers.0." in name}
    for name in (
        "thinker.model.layers.N.mlp.experts.N.gate_proj.weight",
        "thinker.model.layers.N.mlp.experts.N.up_proj.weight",
        "thinker.model.layers.N.mlp.experts.N.down_proj.weight",
        "thinker.model.layers.N.mlp.gate.weight",
        "thinker.model.layers.N.self_attn.q_norm.weight",
        "thinker.audio_tower.layers.N.fc1.weight",
    ):
        assert name in names
    assert {"thinker.lm_head.weight", "thinker.audio_tower.conv_out.weight"} <= set(weights)


@pytest.mark.parametrize("experts", [False, True])
def test_lora_is_only_in_the_language_model(loaded: Loaded, experts: bool) -> None:
    """For such models, PEFT matches the last parts of names, which would put LoRA into the audio
    tower, too."""
    backbone, model, _ = loaded
    wrapped = add_lora(model, backbone, LoraSettings(rank=2, dropout=0.0, experts=experts))
    adapted = {name for name, value in wrapped.named_parameters() if value.requires_grad}
    parts = [name.split(".layers.")[1].split(".lora_")[0] for name in adapted]
    assert all(".language_model.layers." in name for name in adapted)
    attention = [part for part in parts if ".self_attn." in part]
    assert len(attention) == 3 * 4 * 2
    assert len(parts) - len(attention) == (3 * 2 * 2 if experts else 0)
    assert not any("mlp.gate" in part for part in parts)


def test_lora_on_experts_trains_and_is_exported(
    toy_data: Any, checkpoints: Any, tmp_path: Any
) -> None:
    options = toy_data.options(
        tmp_path / "run",
        model=model_config(checkpoints, FAMILY),
        lora=LoraSettings(rank=2, alpha=16, dropout=0.0, experts=True),
        align=None,
        joint=StageConfig(train="lora", lr=0.01, checkpointing=True, **STAGE),
    )
    report = train(options)
    assert report["joint"]["answer_loss"] < report["before"]["answer_loss"]
    lora_B = {name: value for name, value in states(tmp_path / "run")["joint"].items()
              if ".experts." in name and "lora_B" in name}  # fmt: skip
    assert len(lora_B) == 3 * 2
    assert all(value.any() for value in lora_B.values())
    proof = export(tmp_path / "run", tmp_path / "out")
    assert proof.largest_difference < 1e-4
    trained = TrainedStudent(tmp_path / "run")
    clip = toy_data.clips[
        5
    ]  # longer than a second: the original classes pad shorter audio differently
    assert clip.duration > 1
    inputs = trained.inputs([ask("Which note?")], [[trained.load_audio(clip)]])
    exported_model: Any = Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(
        tmp_path / "out"
    )
    block = trained.student.block
    assert block is not None
    with torch.no_grad():
        expected = trained.student.base(**inputs).logits[..., : min(block.ids)]
        result = exported_model.eval()(**inputs).logits[..., : min(block.ids)]
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)


def test_four_bit_experts_raise_an_error(checkpoints: Callable[[str], str]) -> None:
    """Only the other weights could be stored in 4 bits, which would exceed a 24 GB card."""
    path = checkpoints(FAMILY)
    with pytest.raises(UserError, match=r"cannot store the experts of .*; remove model\.quantize"):
        load_backbone(ModelConfig(path=path, quantize="4bit"), path)


def test_lora_on_experts_requires_experts_and_no_dropout(checkpoints: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match=r"lora.dropout must be 0 with lora.experts; found 0.05"):
        LoraSettings(experts=True)
    path = checkpoints("voxtral")
    backbone, model, _ = load_backbone(ModelConfig(path=path, dtype="float32"), path)
    with pytest.raises(UserError, match="the backbone has no experts; remove it"):
        add_lora(model, backbone, LoraSettings(experts=True, dropout=0.0))


def test_full_training_keeps_the_router_frozen(
    toy_data: Any, checkpoints: Any, tmp_path: Any
) -> None:
    """No loss balances the experts, so their router must not change."""
    options = toy_data.options(
        tmp_path, model=model_config(checkpoints, FAMILY), joint=StageConfig(train="full", **STAGE)
    )
    recipe = dataclasses.replace(options, align=None).recipe()
    loaded = load_backbone(recipe.model, recipe.model.path or "")
    student = build_student(recipe, *loaded, {})
    student.train_only("full")
    trained = [name for name, value in student.named_parameters() if value.requires_grad]
    assert not any(".mlp.gate." in name for name in trained)
    assert sum(".mlp.experts." in name for name in trained) == 3 * 2
    assert sum(".audio_tower.proj" in name for name in trained) == 4
    assert not any(".visual." in name or "conv2d" in name for name in trained)
    assert isinstance(student.backbone, Qwen3Omni)
