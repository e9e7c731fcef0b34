"""Music Flamingo (nvidia/music-flamingo-2601-hf): Audio Flamingo 3 for music, with rotary times.

It has other classes: the tower's output is rotated by the time of each frame before the projector,
special tokens enclose an audio, and the window is twenty minutes.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    MusicFlamingoProcessor,
    PreTrainedModel,
    WhisperFeatureExtractor,
)

from student.config import TinyConfig
from student.model.backbones.audio_flamingo3 import AudioFlamingo3
from student.model.backbones.protocol import Processor
from student.model.tiny import CHAT_TEMPLATE, MEL_BANDS, qwen2_fields, tower_fields


class MusicFlamingo(AudioFlamingo3):
    """See `student.model.backbones.protocol.Backbone`."""

    model_class = MusicFlamingoForConditionalGeneration
    processor_class = MusicFlamingoProcessor
    name = "Music Flamingo"
    special_tokens = (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<sound>",
        "<|sound_bos|>", "<|sound_eos|>",
    )  # fmt: skip

    def tiny(self, config: TinyConfig, tokenizer: Any) -> tuple[PreTrainedModel, Processor]:
        ids = tokenizer.get_vocab()
        model = MusicFlamingoForConditionalGeneration(
            MusicFlamingoConfig(
                audio_config={"model_type": "audioflamingo3_encoder", **tower_fields(config)},
                text_config={"model_type": "qwen2", **qwen2_fields(config, tokenizer)},
                audio_token_id=ids["<sound>"],
                audio_bos_token_id=ids["<|sound_bos|>"],
                audio_eos_token_id=ids["<|sound_eos|>"],
            )
        )
        extractor = WhisperFeatureExtractor(
            feature_size=MEL_BANDS, chunk_length=config.window_s, return_attention_mask=True
        )
        template = CHAT_TEMPLATE.replace("AUDIO_PART", "<sound>")
        return model, MusicFlamingoProcessor(extractor, tokenizer, chat_template=template)

    def tiny_window_s(self, config: TinyConfig) -> float:
        """See `Backbone`. Whole windows within the processor's default, twenty minutes."""
        return 1200 // config.window_s * config.window_s
