"""Qwen2.5-Omni (Qwen/Qwen2.5-Omni-7B): its Thinker, from audio to text, without the Talker.

transformers' own processor needs torchvision for images and videos. `AudioTextProcessor` combines
audio and text in the same way without it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.processing_utils import ProcessorMixin
from transformers.utils.hub import cached_file

from student.config import TinyConfig
from student.model.backbones.audio_text_processor import AudioTextProcessor
from student.model.backbones.log_mel import samples_needed
from student.model.backbones.protocol import Backbone, Processor
from student.model.tiny import CHAT_TEMPLATE, MEL_BANDS, qwen2_fields, tower_fields

# Legend: A audios, F mel frames.

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "spk_dict.pt")
"""Files of the original checkpoint that exports include for loading the full processor."""


class Qwen2_5Omni(Backbone):
    """See `student.model.backbones.protocol.Backbone`."""

    model_class = Qwen2_5OmniThinkerForConditionalGeneration
    whole_class: Any = Qwen2_5OmniForConditionalGeneration
    """Thinker and Talker, as checkpoints are published."""
    whole_config: Any = Qwen2_5OmniConfig
    audio_end = "<|audio_eos|>"
    projector = r"model\.audio_tower\.proj\..*"
    tower_by_rows = False
    special_tokens = (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>",
        "<|audio_bos|>", "<|audio_eos|>", "<|IMAGE|>", "<|VIDEO|>",
        "<|vision_bos|>", "<|vision_eos|>",
    )  # fmt: skip

    def load_processor(self, path: str) -> Processor:
        tokenizer = AutoTokenizer.from_pretrained(path)
        extractor = WhisperFeatureExtractor.from_pretrained(path)
        fields, _ = ProcessorMixin.get_processor_dict(path)
        template = fields.get("chat_template") or tokenizer.chat_template
        return AudioTextProcessor(tokenizer, extractor, template)

    def tiny(self, config: TinyConfig, tokenizer: Any) -> tuple[PreTrainedModel, Processor]:
        ids = tokenizer.get_vocab()
        head_dim = config.hidden_size // config.attention_heads
        sections = [head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6]
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
        thinker = Qwen2_5OmniThinkerConfig(
            audio_config={**tower_fields(config), "output_dim": config.hidden_size},
            vision_config={"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
                           "out_hidden_size": config.hidden_size, "fullatt_block_indexes": [0]},
            text_config={**qwen2_fields(config, tokenizer), "rope_parameters": rope},
            audio_token_index=ids["<|AUDIO|>"],
            image_token_index=ids["<|IMAGE|>"],
            video_token_index=ids["<|VIDEO|>"],
            audio_start_token_id=ids["<|audio_bos|>"],
            audio_end_token_id=ids["<|audio_eos|>"],
            **{"vision_start_token_id": ids["<|vision_bos|>"]},  # no field of its own, but needed
        )  # fmt: skip
        extractor = WhisperFeatureExtractor(feature_size=MEL_BANDS, chunk_length=config.window_s)
        template = CHAT_TEMPLATE.replace("AUDIO_PART", "<|audio_bos|><|AUDIO|><|audio_eos|>")
        model = Qwen2_5OmniThinkerForConditionalGeneration(thinker)
        return model, AudioTextProcessor(tokenizer, extractor, template)

    def window_s(self, processor: Any) -> float:
        return processor.extractor.chunk_length

    def prepare(
        self, processor: Any, prompt: str, waves: Sequence[np.ndarray]
    ) -> dict[str, Tensor]:
        features = processor.extractor(
            list(waves),
            sampling_rate=self.sample_rate,
            max_length=samples_needed(processor.extractor, waves),
            return_attention_mask=True,
            return_tensors="pt",
        )
        # The tower accepts any number of frames, so the audio is not padded to the window of 300 s.
        num_frames = int(features["attention_mask"].sum(-1).max())
        mask_AF = features["attention_mask"][:, :num_frames]
        num_tokens = [((frames - 1) // 2 - 1) // 2 + 1 for frames in mask_AF.sum(-1).tolist()]
        return {
            "input_ids": processor.tokenize(prompt, "<|AUDIO|>", num_tokens),
            "input_features": features["input_features"][..., :num_frames],
            "feature_attention_mask": mask_AF,
        }

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if "position_ids" in inputs:
            # Text positions, then those of the three axes, which are equal without images.
            return {"position_ids": inputs["position_ids"].expand(4, 1, -1)}
        return {}  # The Thinker derives its three axes of positions from the attention mask.

    def masked_positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if "position_ids" in inputs:
            return {"position_ids": inputs["position_ids"].expand(3, 1, -1)}
        places_BS = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return {"position_ids": places_BS.expand(3, *places_BS.shape)}

    def save(self, model: PreTrainedModel, processor: Processor, folder: Path, base: str) -> None:
        """Wraps the Thinker as a whole model without audio output: vLLM does not register a bare
        Thinker, and both find the weights under `thinker.`."""
        config = self.whole_config(
            thinker_config=model.config.to_dict(),
            enable_audio_output=False,
            dtype=str(model.dtype).removeprefix("torch."),
        )
        with torch.device("meta"):
            whole: Any = self.whole_class(config)
        whole.thinker = model
        whole.generation_config = model.generation_config
        whole.save_pretrained(folder)
        processor.save_pretrained(folder)
        for name in PROCESSOR_FILES if base else ():
            original = cached_file(base, name, _raise_exceptions_for_missing_entries=False)
            if original is not None:
                shutil.copy(original, folder / name)
