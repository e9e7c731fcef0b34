"""Audio Flamingo 3 (nvidia/audio-flamingo-3-hf): AF-Whisper encoder, a small MLP, Qwen2.5.

Accepts one audio per conversation, in windows of 30 s up to ten minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    PreTrainedModel,
    WhisperFeatureExtractor,
)

from manifests.errors import UserError
from student.config import TinyConfig
from student.model.backbones.log_mel import fill_inputs, samples_needed
from student.model.backbones.protocol import Backbone, Processor
from student.model.tiny import CHAT_TEMPLATE, MEL_BANDS, qwen2_fields, tower_fields


class AudioFlamingo3(Backbone):
    """See `student.model.backbones.protocol.Backbone`."""

    model_class = AudioFlamingo3ForConditionalGeneration
    processor_class = AudioFlamingo3Processor
    name = "Audio Flamingo 3"
    audio_end = "<sound>"
    tower_by_rows = False
    special_tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<sound>")

    def tiny(self, config: TinyConfig, tokenizer: Any) -> tuple[PreTrainedModel, Processor]:
        model = AudioFlamingo3ForConditionalGeneration(
            AudioFlamingo3Config(
                audio_config={"model_type": "audioflamingo3_encoder", **tower_fields(config)},
                text_config={"model_type": "qwen2", **qwen2_fields(config, tokenizer)},
                audio_token_id=tokenizer.get_vocab()["<sound>"],
            )
        )
        extractor = WhisperFeatureExtractor(
            feature_size=MEL_BANDS, chunk_length=config.window_s, return_attention_mask=True
        )
        template = CHAT_TEMPLATE.replace("AUDIO_PART", "<sound>")
        return model, AudioFlamingo3Processor(extractor, tokenizer, chat_template=template)

    def window_s(self, processor: Any) -> float:
        """See `Backbone`. The outputs of the tower's windows are concatenated."""
        length = processor.feature_extractor.chunk_length
        return processor.max_audio_len // length * length

    def tiny_window_s(self, config: TinyConfig) -> float:
        """See `Backbone`. The processor's default is ten minutes."""
        return 600 // config.window_s * config.window_s

    def prepare(
        self, processor: Any, prompt: str, waves: Sequence[np.ndarray]
    ) -> dict[str, Tensor]:
        if len(waves) != 1:
            raise UserError(f"{self.name} takes one audio per conversation, found {len(waves)}")
        needed = samples_needed(processor.feature_extractor, waves)
        inputs = processor(text=[prompt], audio=list(waves), audio_kwargs={"max_length": needed})
        del inputs["attention_mask"]
        return fill_inputs(inputs, processor.feature_extractor, "input_features_mask")
