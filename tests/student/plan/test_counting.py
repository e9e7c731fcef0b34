"""Tests the counts of parameters, operations and bytes against checkpoints and arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from student.config import HeadConfig, ModelConfig
from student.lora_settings import LoraSettings
from student.model.adapters import add_lora
from student.model.backbones.registry import named_backbone
from student.plan import checkpoints
from student.plan.checkpoints import FAMILIES, KNOWN, empty_model
from student.plan.counting import count_model, count_step, count_tower, empty_heads

BILLIONS = {
    "Qwen/Qwen2-Audio-7B-Instruct": 8.397,
    "Qwen/Qwen2.5-Omni-7B": 8.932,
    "nvidia/audio-flamingo-3-hf": 8.267,
    "nvidia/music-flamingo-2601-hf": 8.267,
    "mistralai/Voxtral-Mini-3B-2507": 4.676,
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": 31.719,
}
"""Parameters in the published weights (for Omni those of the Thinker), 10^9. For Music Flamingo and
Voxtral, they are sums of shapes in transformers' default configs, and for Qwen3-Omni those of
Qwen3-30B-A3B with the towers of its report; they were not checked against the files."""
WIDTH, INNER, LAYERS, VOCABULARY, TOKENS = 64, 160, 3, 300, 50
EXPERTS = 5


def small_config(model_type: str) -> tuple[str, dict[str, Any]]:
    """Returns a config that is small enough to count by hand, without grouped heads."""
    text = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
            "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": VOCABULARY,
            "model_type": "qwen2"}  # fmt: skip
    tower = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
             "encoder_ffn_dim": 64}  # fmt: skip
    values = {"text_config": text, "audio_config": tower}
    if model_type in ("audioflamingo3", "musicflamingo", "voxtral"):
        values["audio_config"] = {"hidden_size": 32, "num_hidden_layers": 2,
                                  "num_attention_heads": 2, "intermediate_size": 64}  # fmt: skip
    if model_type == "musicflamingo":
        values["audio_config"]["model_type"] = "audioflamingo3_encoder"
    if model_type == "voxtral":
        values["audio_config"] |= {"model_type": "voxtral_encoder", "intermediate_size": 128}
        text |= {"model_type": "llama", "head_dim": WIDTH // 4}
    if model_type == "qwen2_audio":
        values["audio_config"] = {"model_type": "qwen2_audio_encoder", **tower}
    if model_type == "qwen2_5_omni_thinker":
        text["model_type"] = "qwen2_5_omni_text"
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6,
                                   "mrope_section": [2, 3, 3]}  # fmt: skip
        tower["output_dim"] = WIDTH
        values["vision_config"] = {"depth": 1, "hidden_size": 32, "intermediate_size": 64,
                                   "num_heads": 2, "out_hidden_size": WIDTH}  # fmt: skip
    if model_type == "qwen3_omni_moe_thinker":
        # Two active experts of half the inner width count like one dense layer.
        text |= {"model_type": "qwen3_omni_moe_text", "num_experts": EXPERTS,
                 "num_experts_per_tok": 2, "moe_intermediate_size": INNER // 2,
                 "rope_parameters": {"rope_type": "default", "rope_theta": 1e6,
                                     "mrope_section": [2, 3, 3]}}  # fmt: skip
        tower["output_dim"] = WIDTH
        values["vision_config"] = {"depth": 1, "hidden_size": 32, "intermediate_size": 64,
                                   "num_heads": 2, "out_hidden_size": WIDTH,
                                   "deepstack_visual_indexes": [0]}  # fmt: skip
    return model_type, values


@pytest.mark.parametrize("path", KNOWN)
def test_sizes_match_the_published_weights(path: str) -> None:
    model = empty_model(ModelConfig(path=path, dtype="bfloat16"))
    backbone = named_backbone(model.config.model_type)
    projections, others = count_model(model, backbone)
    assert (projections + others) / 1e9 == pytest.approx(BILLIONS[path], abs=5e-4)
    assert 3e9 < projections < 7e9 or backbone.expert_parameters
    assert all(value.is_meta for value in model.parameters())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_operations_match_the_arithmetic(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN, "x", small_config(model_type))
    precision = "float32" if model_type == "qwen3_omni_moe_thinker" else "bfloat16"
    model = empty_model(ModelConfig(path="x", dtype=precision))  # a sharded mixture is float32
    backbone = named_backbone(model_type)
    heads = empty_heads({}, hidden_size=WIDTH, num_positions=4, config=HeadConfig())

    def count(tokens: int) -> Any:
        return count_step(
            model, backbone, heads, num_positions=4, tokens=tokens, answer_tokens=5, clip_s=2
        )

    has_experts = bool(backbone.expert_parameters)
    router = EXPERTS * WIDTH if has_experts else 0
    weights = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER + router)
    forward = 2 * TOKENS * weights + LAYERS * 4 * TOKENS**2 * WIDTH + 2 * 5 * WIDTH * VOCABULARY
    counts = count(TOKENS)
    assert counts.forward == forward
    # Backward through frozen weights is one product per weight, through attention two per product.
    attention = LAYERS * 4 * TOKENS**2 * WIDTH
    assert counts.backward == pytest.approx(forward + attention, rel=0.02)
    assert counts.logits == 5 * VOCABULARY * (2 + 4 + 4)
    assert count(2 * TOKENS).kept == pytest.approx(2 * counts.kept, rel=0.02)
    assert counts.kept_with_checkpointing < counts.kept

    add_lora(model, backbone, LoraSettings(rank=2))
    with_lora = count(TOKENS)
    adapters = LAYERS * 2 * (4 * 2 * WIDTH + (0 if has_experts else 3 * (WIDTH + INNER)))
    assert with_lora.forward == forward + 2 * TOKENS * adapters
    assert with_lora.backward > counts.backward + 2 * 2 * TOKENS * adapters * 0.9


def test_saved_bytes_match_a_real_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is the same hook on a model with weights."""
    monkeypatch.setitem(KNOWN, "x", small_config("qwen2_audio"))
    model = empty_model(ModelConfig(path="x", dtype="float32"))
    counted = count_step(
        model, named_backbone("qwen2_audio"), nn.ModuleList(),
        num_positions=4, tokens=TOKENS, answer_tokens=5, clip_s=2,
    ).kept  # fmt: skip
    real: Any = type(model)(model.config).requires_grad_(False)
    parameter_storages = {value.untyped_storage().data_ptr() for value in real.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def record_storage(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameter_storages:
            kept[storage.data_ptr()] = storage
        return value

    embedded = torch.randn(1, TOKENS, WIDTH, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(record_storage, lambda value: value):
        states = real.model.language_model(inputs_embeds=embedded, use_cache=False)
        real.lm_head(states.last_hidden_state[:, -5:]).float().sum()
    assert counted == pytest.approx(sum(each.nbytes() for each in kept.values()), rel=0.15)


def test_count_tower_matches_a_value_by_hand() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.up, self.norm = nn.Linear(8, 8), nn.Linear(8, 32), nn.LayerNorm(8)

    layers = nn.ModuleList([Layer()])
    positions = 10 * 50
    assert count_tower(layers, 10, 30, 50) == positions * (2 * (64 + 256) + 4 * positions * 8)
    assert count_tower(layers, 10, 2, 50) == positions * (2 * (64 + 256) + 4 * 100 * 8)


def test_padded_seconds_round_up_to_whole_windows() -> None:
    padded = {name: family.padded_seconds(31) for name, family in FAMILIES.items()}
    assert padded == {"qwen2_audio": 60, "audioflamingo3": 60, "musicflamingo": 60, "voxtral": 60,
                      "qwen2_5_omni_thinker": 31, "qwen3_omni_moe_thinker": 31}  # fmt: skip


def test_config_of_another_family_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(checkpoints.UserError, match="bert model; known are qwen2_audio"):
        checkpoints.load_config(str(tmp_path))
