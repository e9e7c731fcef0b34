"""Qwen2-Audio (Qwen/Qwen2-Audio-7B-Instruct): Whisper large-v3 encoder, one linear layer, Qwen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)

# Legend: B clips, S tokens.


class Qwen2Audio:
    """See `student.backbones.protocol.Backbone`."""

    audio_end = "<|audio_eos|>"
    sample_rate = 16000
    lora_pattern = (
        r"model\.language_model\.layers\.\d+\."
        r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    )
    trained_in_full = r"(model\.(language_model|multi_modal_projector)|lm_head)\..*"
    inputs_in_rows = True

    def load(
        self, path: str, *, dtype: str | torch.dtype, quantization: Any
    ) -> tuple[PreTrainedModel, Any]:
        model = Qwen2AudioForConditionalGeneration.from_pretrained(
            path, dtype=dtype, quantization_config=quantization
        )
        return model, Qwen2AudioProcessor.from_pretrained(path)

    def prepare(
        self, processor: Any, prompt: str, waves: Sequence[np.ndarray]
    ) -> dict[str, Tensor]:
        inputs = processor(
            text=[prompt],
            audio=list(waves) or None,
            sampling_rate=self.sample_rate,
            return_tensors="pt",
        )
        del inputs["attention_mask"]
        return dict(inputs)

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        mask_BS = inputs["attention_mask"]
        return {"position_ids": (mask_BS.cumsum(-1) - 1).clamp(min=0)}

    def audio_tower(self, model: PreTrainedModel) -> nn.Module:
        return model.model.audio_tower

    def language_model(self, model: PreTrainedModel) -> nn.Module:
        return model.model.language_model

    def audio_token_id(self, model: PreTrainedModel) -> int:
        return model.config.audio_token_id

    def export(self, model: PreTrainedModel) -> PreTrainedModel:
        return model
