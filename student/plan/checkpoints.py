"""Builds a backbone without weights from its config.

The configs of the checkpoints in the shipped recipes are listed here, so that a plan needs no
network; other checkpoints need their own config.json. tests/student/plan/test_counting.py compares
the number of parameters on the meta device with the published weight files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from manifests.errors import UserError
from student.config import ModelConfig
from student.model.backbones.registry import named_backbone, read_config

QWEN2_7B = {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
            "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4}  # fmt: skip
WHISPER_LARGE = {"num_mel_bins": 128, "d_model": 1280, "encoder_layers": 32,
                 "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}  # fmt: skip

KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen/Qwen2-Audio-7B-Instruct": ("qwen2_audio", {
        "audio_config": {"model_type": "qwen2_audio_encoder", **WHISPER_LARGE},
        "text_config": {"model_type": "qwen2", "hidden_size": 4096, "intermediate_size": 11008,
                        "num_hidden_layers": 32, "num_attention_heads": 32,
                        "num_key_value_heads": 32, "vocab_size": 156032},
    }),
    "Qwen/Qwen2.5-Omni-7B": ("qwen2_5_omni_thinker", {
        "audio_config": {**WHISPER_LARGE, "output_dim": 3584},
        "text_config": {**QWEN2_7B, "model_type": "qwen2_5_omni_text", "vocab_size": 152064},
        "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420,
                          "num_heads": 16, "out_hidden_size": 3584},
    }),
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": ("qwen3_omni_moe_thinker", {
        "audio_config": {**WHISPER_LARGE, "output_dim": 2048},
        "text_config": {"hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
                        "num_key_value_heads": 4, "head_dim": 128, "moe_intermediate_size": 768,
                        "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 152064},
        "vision_config": {"out_hidden_size": 2048},
    }),
    "nvidia/audio-flamingo-3-hf": ("audioflamingo3", {
        "audio_config": {"num_mel_bins": 128, "hidden_size": 1280, "intermediate_size": 5120,
                         "num_hidden_layers": 32, "num_attention_heads": 20},
        "text_config": {**QWEN2_7B, "vocab_size": 151672},
    }),
    "nvidia/music-flamingo-2601-hf": ("musicflamingo", {
        "audio_config": {"num_mel_bins": 128, "hidden_size": 1280, "intermediate_size": 5120,
                         "num_hidden_layers": 32, "num_attention_heads": 20,
                         "model_type": "audioflamingo3_encoder"},
        "text_config": {**QWEN2_7B, "vocab_size": 151672},
    }),
    "mistralai/Voxtral-Mini-3B-2507": ("voxtral", {
        "audio_config": {"num_mel_bins": 128, "hidden_size": 1280, "intermediate_size": 5120,
                         "num_hidden_layers": 32, "num_attention_heads": 20,
                         "model_type": "voxtral_encoder"},
        "text_config": {"model_type": "llama", "hidden_size": 3072, "intermediate_size": 8192,
                        "num_hidden_layers": 30, "num_attention_heads": 32,
                        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072},
    }),
}  # fmt: skip
"""Hub id -> `model_type` and the fields of its config that differ from the class's defaults."""


@dataclass(frozen=True, slots=True)
class Family:
    """Facts about a class that its config does not state."""

    pads_to_s: float | None
    """The audio tower processes whole windows of this length; None means no padding."""
    attends_s: float
    """Each position of the tower attends to positions within a window of this length."""
    tower_hz: float = 50.0
    """Positions of the tower per second: 50 for a Whisper encoder."""

    def padded_seconds(self, seconds: float) -> float:
        """Seconds that the tower processes for a clip, padding included."""
        if self.pads_to_s is None:
            return seconds
        return max(math.ceil(seconds / self.pads_to_s), 1) * self.pads_to_s


FAMILIES = {
    "qwen2_audio": Family(30, 30),
    "qwen2_5_omni_thinker": Family(None, 2),
    "qwen3_omni_moe_thinker": Family(None, 8, tower_hz=13),
    "audioflamingo3": Family(30, 30),
    "musicflamingo": Family(30, 30),
    "voxtral": Family(30, 30),
}
"""`model_type` -> facts about its audio tower."""


def load_config(path: str) -> Any:
    """Reads the config of a checkpoint from the table or its own config.json.

    Raises:
        UserError: the config does not exist, or its family is unknown.
    """
    if path in KNOWN:
        model_type, values = KNOWN[path]
        return AutoConfig.for_model(model_type, **values)
    config: Any = read_config(path, with_weights=False)
    config = getattr(config, "thinker_config", config)
    if config.model_type not in FAMILIES:
        raise UserError(f"{path} is a {config.model_type} model; known are {', '.join(FAMILIES)}")
    return config


def empty_model(config: ModelConfig) -> PreTrainedModel:
    """Builds the backbone of a recipe on the meta device, without weights.

    Raises:
        UserError: the recipe builds a small model, so there is nothing to plan.
    """
    if config.path is None:
        raise UserError(
            f"model.build: {config.build} makes a small model on the spot; `plan` is for recipes "
            "with model.path"
        )
    described = load_config(config.path)
    backbone = named_backbone(described.model_type)
    # The products of experts have a meta kernel for bfloat16 alone, which is what they compute in.
    in_full = config.dtype == "float32" and not backbone.expert_parameters
    dtype = torch.float32 if in_full else torch.bfloat16
    with torch.device("meta"):
        return backbone.model_class(described).to(dtype).requires_grad_(False)
