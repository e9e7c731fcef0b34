"""Voxtral (mistralai/Voxtral-Mini-3B-2507): Whisper large-v3 encoder, an MLP, Llama or Ministral.

The tower processes whole windows of 30 s without a mask: the silence that fills the last one has
tokens, too; each window has 375. transformers' own processor uses the package mistral-common, whose
vocabulary cannot be extended by the block's tokens. Therefore `AudioTextProcessor` combines audio
and text, with the same template, and transformers reads Mistral's `tekken.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)

from student.config import TinyConfig
from student.model.backbones.audio_text_processor import AudioTextProcessor
from student.model.backbones.log_mel import fill_window, samples_needed
from student.model.backbones.protocol import Backbone, Processor
from student.model.tiny import MEL_BANDS, qwen2_fields, tower_fields

# Legend: W windows, M mel bands, F mel frames.

MAX_SECONDS = 2400
"""Forty minutes, the authors' limit for questions about audio: 30,000 of 32,768 tokens."""
POOLING = 8
"""Mel frames per audio token: a stride of 2, then 4 states are merged."""
CHAT_TEMPLATE = (
    "<s>{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST]"
    "{% elif message['role'] == 'system' %}[SYSTEM_PROMPT]{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'audio' %}[BEGIN_AUDIO][AUDIO]"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'user' %}[/INST]"
    "{% elif message['role'] == 'system' %}[/SYSTEM_PROMPT]"
    "{% else %}</s>{% endif %}{% endfor %}"
)
"""Mistral's version 7, as mistral-common 1.13 encodes conversations for this model."""


class Voxtral(Backbone):
    """See `student.model.backbones.protocol.Backbone`."""

    model_class = VoxtralForConditionalGeneration
    audio_end = "[AUDIO]"
    tower_by_rows = True
    tokens_per_second = 100 / POOLING
    pads_audio = True
    special_tokens = (
        "<pad>", "<s>", "</s>", "[AUDIO]", "[BEGIN_AUDIO]", "[INST]", "[/INST]",
        "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    )  # fmt: skip

    def load_processor(self, path: str) -> Processor:
        tokenizer = AutoTokenizer.from_pretrained(
            path,
            mistral_format=False,
            fix_mistral_regex=True,  # older conversions split text in another way
            pad_token="<pad>",  # `tekken.json` alone does not say which token has which part
            bos_token="<s>",
            eos_token="</s>",
        )
        extractor = WhisperFeatureExtractor.from_pretrained(path)
        # An export has this template with the block; Mistral's own takes no audio without its data.
        stored = tokenizer.chat_template or ""
        template = stored if CHAT_TEMPLATE in stored else CHAT_TEMPLATE
        return AudioTextProcessor(tokenizer, extractor, template)

    def tiny(self, config: TinyConfig, tokenizer: Any) -> tuple[PreTrainedModel, Processor]:
        text = qwen2_fields(config, tokenizer)
        text["head_dim"] = config.hidden_size // config.attention_heads
        model = VoxtralForConditionalGeneration(
            VoxtralConfig(
                audio_config={"model_type": "voxtral_encoder", **tower_fields(config)},
                text_config={"model_type": "llama", **text},
                audio_token_id=tokenizer.get_vocab()["[AUDIO]"],
            )
        )
        extractor = WhisperFeatureExtractor(feature_size=MEL_BANDS, chunk_length=config.window_s)
        return model, AudioTextProcessor(tokenizer, extractor, CHAT_TEMPLATE)

    def window_s(self, processor: Any) -> float:
        """See `Backbone`. Whole windows of the tower within forty minutes."""
        length = processor.extractor.chunk_length
        return MAX_SECONDS // length * length

    def tiny_window_s(self, config: TinyConfig) -> float:
        return MAX_SECONDS // config.window_s * config.window_s

    def prepare(
        self, processor: Any, prompt: str, waves: Sequence[np.ndarray]
    ) -> dict[str, Tensor]:
        windows = [self._windows(processor.extractor, wave) for wave in waves]
        num_tokens = [len(each_WMF) * each_WMF.shape[-1] // POOLING for each_WMF in windows]
        inputs = {"input_ids": processor.tokenize(prompt, "[AUDIO]", num_tokens)}
        return inputs | ({"input_features": torch.cat(windows)} if windows else {})

    def _windows(self, extractor: Any, wave: np.ndarray) -> Tensor:
        """features_WMF of one audio: computed for the whole audio, as in the model's training, then
        cut."""
        num_windows = -(-len(wave) // extractor.n_samples)
        needed = num_windows * extractor.n_samples
        if num_windows == 1:
            needed = samples_needed(extractor, [wave])
        features = extractor(
            wave,
            sampling_rate=self.sample_rate,
            max_length=needed,
            padding="max_length",
            truncation=False,
            return_tensors="pt",
        )
        filled_1MF = fill_window(features["input_features"], num_windows * extractor.nb_max_frames)
        return filled_1MF[0].unflatten(1, (num_windows, -1)).transpose(0, 1).contiguous()
