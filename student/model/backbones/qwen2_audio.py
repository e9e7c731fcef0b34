"""Qwen2-Audio (Qwen/Qwen2-Audio-7B-Instruct): Whisper large-v3 encoder, one linear layer, Qwen."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from manifests.errors import UserError
from student.config import TinyConfig
from student.model.backbones.log_mel import fill_inputs, samples_needed
from student.model.backbones.protocol import Backbone, Processor
from student.model.ct2_weights import load_whisper_encoder
from student.model.tiny import MEL_BANDS, qwen2_fields, tower_fields

logger = logging.getLogger(__name__)

INITIAL_WEIGHTS = "initial_weights"
"""Field of a tiny model's `audio_config` that names the weights from which its tower started."""


class Qwen2Audio(Backbone):
    """See `student.model.backbones.protocol.Backbone`."""

    model_class = Qwen2AudioForConditionalGeneration
    processor_class = Qwen2AudioProcessor
    audio_end = "<|audio_eos|>"
    tower_by_rows = True
    special_tokens = (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>",
        "<|audio_bos|>", "<|audio_eos|>",
    )  # fmt: skip

    def tiny(self, config: TinyConfig, tokenizer: Any) -> tuple[PreTrainedModel, Processor]:
        model = Qwen2AudioForConditionalGeneration(
            Qwen2AudioConfig(
                audio_config={"model_type": "qwen2_audio_encoder", **tower_fields(config)},
                text_config={"model_type": "qwen2", **qwen2_fields(config, tokenizer)},
                audio_token_index=tokenizer.get_vocab()["<|AUDIO|>"],
            )
        )
        if config.whisper_weights:
            try:
                load_whisper_encoder(self.audio_tower(model))
                setattr(model.config.audio_config, INITIAL_WEIGHTS, "Whisper tiny.en")
            except UserError as error:
                logger.warning("the audio tower starts from random weights: %s", error)
        extractor = WhisperFeatureExtractor(feature_size=MEL_BANDS, chunk_length=config.window_s)
        return model, Qwen2AudioProcessor(extractor, tokenizer)

    def prepare(
        self, processor: Any, prompt: str, waves: Sequence[np.ndarray]
    ) -> dict[str, Tensor]:
        inputs = processor(
            text=[prompt],
            audio=list(waves),
            audio_kwargs={
                "sampling_rate": self.sample_rate,
                "max_length": samples_needed(processor.feature_extractor, waves),
            },
            return_tensors="pt",
        )
        del inputs["attention_mask"]
        return fill_inputs(inputs, processor.feature_extractor, "feature_attention_mask")
