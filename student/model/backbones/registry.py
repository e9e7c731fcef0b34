"""Which adapter a checkpoint needs: `model_type` of its config -> adapter, imported on demand."""

from __future__ import annotations

from importlib import import_module

from transformers import AutoConfig

from manifests.errors import UserError
from student.config import ModelConfig
from student.model.backbones.protocol import Backbone

BACKBONES = {
    "qwen2_audio": "student.model.backbones.qwen2_audio:Qwen2Audio",
    "qwen2_5_omni": "student.model.backbones.qwen2_5_omni:Qwen2_5Omni",
    "qwen2_5_omni_thinker": "student.model.backbones.qwen2_5_omni:Qwen2_5Omni",
    "audioflamingo3": "student.model.backbones.audio_flamingo3:AudioFlamingo3",
}


def named_backbone(model_type: str) -> Backbone:
    """The adapter of a family."""
    module, name = BACKBONES[model_type].split(":")
    return getattr(import_module(module), name)()


def backbone_for(path: str) -> Backbone:
    """The adapter for a checkpoint: a folder or a hub id.

    Raises:
        UserError: there is no checkpoint to be read, or of a family without adapter.
    """
    try:
        model_type = AutoConfig.from_pretrained(path).model_type
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is not a checkpoint that can be read: {first_line}") from None
    if model_type not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise UserError(f"{path} is a {model_type} model; there are adapters for {known}")
    return named_backbone(model_type)


def window_of(config: ModelConfig) -> float:
    """Longest audio in seconds that a recipe's backbone takes; no weights are loaded for it."""
    if config.build == "small":
        return config.small.window_s
    if config.path is None:
        return named_backbone(config.tiny.family).tiny_window_s(config.tiny)
    backbone = backbone_for(config.path)
    return backbone.window_s(backbone.load_processor(config.path))
