"""Sizes of the small backbones that a run builds itself instead of loading a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manifests.errors import UserError

SmallFamily = Literal[
    "qwen2_audio", "qwen2_5_omni", "qwen3_omni_moe", "audioflamingo3", "musicflamingo", "voxtral"
]


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Sizes of a small, randomly initialised model of the same class as a checkpoint."""

    family: SmallFamily = "qwen2_audio"
    """Model class."""
    hidden_size: int = 256
    """Width H of the language model."""
    layers: int = 4
    """Depth of the language model."""
    attention_heads: int = 4
    """Attention heads of the language model."""
    feed_forward: int = 768
    """Inner width of the language model's MLPs."""
    init_std: float = 0.02
    """Standard deviation of the random weights; about 1 / sqrt(hidden_size) trains faster."""
    vocabulary: int = 768
    """Number of tokens of the tokenizer, which is trained on the texts of the corpus."""
    window_s: int = 10
    """Window of the audio tower in seconds, instead of Whisper's 30 s. It is the longest audio of
    qwen2_audio and qwen2_5_omni; the other families take longer audio (docs/recipes.md)."""
    tower_width: int = 384
    """Width of the audio tower."""
    tower_layers: int = 4
    """Depth of the audio tower. The default width and depth are those of Whisper tiny."""
    whisper_weights: bool = True
    """Initialise a Qwen2-Audio tower of Whisper tiny's sizes with its encoder, if installed."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) in (int, float) and value <= 0:
                raise UserError(f"recipe: model.tiny.{name} must be above 0; found {value!r}")


@dataclass(frozen=True, kw_only=True)
class SmallConfig:
    """The small pretrained student: the encoder of Whisper tiny.en and SmolLM2-135M-Instruct."""

    window_s: int = 4
    """Longest audio in seconds. Whisper's window of 30 s is reduced to this length to save time."""
