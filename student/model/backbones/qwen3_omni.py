"""Qwen3-Omni (Qwen/Qwen3-Omni-30B-A3B-Instruct): its Thinker, a mixture of 128 experts.

Each token is computed by 8 experts of a layer, which a router selects, so 3 of 30 billion weights
take part. The router is never trained, and there is no loss that balances the experts: that loss
keeps routers from collapsing while they are trained, and this one stays as its makers left it.

The audio tower cuts the log-mel features into chunks of a second. A whole chunk has 13 tokens, and
a shorter one at the end of the audio a token for each 8 mel frames. The tower pads all chunks to
the longest one, and its convolutions read what pads them: the last token of a clip below a second
depended on the clips beside it. Here chunks are always padded to a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedModel,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import chunk_and_pad_features

from student.config import TinyConfig
from student.model.backbones.audio_text_processor import AudioTextProcessor
from student.model.backbones.protocol import Processor
from student.model.backbones.qwen2_5_omni import Qwen2_5Omni
from student.model.tiny import CHAT_TEMPLATE, MEL_BANDS, qwen2_fields, tower_fields

# Legend: A audios, C chunks, M mel bands, F mel frames, T mel frames of all audios.

MAX_SECONDS = 2400
"""Forty minutes, the longest audio that the makers report: 31,200 of 65,536 tokens."""
CHUNK = 100
"""Mel frames of a chunk."""
TOKENS_PER_CHUNK = 13


def count_tokens(num_frames: int) -> int:
    """Audio tokens for a number of mel frames: three convolutions of stride 2 over each chunk."""
    chunks, rest = divmod(num_frames, CHUNK)
    return TOKENS_PER_CHUNK * chunks + -(-rest // 8)


def pad_chunks(tower: nn.Module) -> None:
    """Makes an audio tower pad each chunk to its whole length."""

    def with_whole_chunks(
        tower: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        (features_MT,) = args
        half_chunk: Any = tower.n_window
        padded_CMF, lengths_C = chunk_and_pad_features(
            features_MT, kwargs["feature_lens"], half_chunk
        )
        missing = 2 * half_chunk - padded_CMF.shape[-1]
        padded_CMF = nn.functional.pad(padded_CMF, (0, missing))
        return args, kwargs | {
            "padded_feature": padded_CMF,
            "chunk_lengths": lengths_C,
            # The tower would count places as if chunks were padded to the longest one alone.
            "valid_indices": _valid_places(lengths_C),
        }

    tower.register_forward_pre_hook(with_whole_chunks, with_kwargs=True)


def _valid_places(lengths_C: Tensor) -> Tensor:
    """Flat indices of the tokens of audio among those of whole chunks."""
    tokens_C = torch.tensor([count_tokens(frames) for frames in lengths_C.tolist()])
    places_T = torch.arange(TOKENS_PER_CHUNK)
    valid_CT = (places_T < tokens_C[:, None]).to(lengths_C.device)
    return valid_CT.flatten().nonzero().squeeze(-1)


class Qwen3Omni(Qwen2_5Omni):
    """See `student.model.backbones.protocol.Backbone`."""

    model_class = Qwen3OmniMoeThinkerForConditionalGeneration
    whole_class = Qwen3OmniMoeForConditionalGeneration
    whole_config = Qwen3OmniMoeConfig
    audio_end = "<|audio_end|>"
    lora_pattern = r"model\.language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"
    projector = r"model\.audio_tower\.(proj1|proj2)\..*"
    expert_parameters = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    tokens_per_second = TOKENS_PER_CHUNK
    special_tokens = (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_pad|>",
        "<|audio_start|>", "<|audio_end|>", "<|image_pad|>", "<|video_pad|>",
        "<|vision_start|>", "<|vision_end|>",
    )  # fmt: skip

    def load(self, path: str, **options: Any) -> tuple[PreTrainedModel, Processor]:
        model, processor = super().load(path, **options)
        pad_chunks(self.audio_tower(model))
        return model, processor

    @property
    def trained_in_full(self) -> str:
        """The routers keep their weights."""
        return rf"(?!.*\.mlp\.gate\.){super().trained_in_full}"

    def tiny(self, config: TinyConfig, tokenizer: Any) -> tuple[PreTrainedModel, Processor]:
        ids = tokenizer.get_vocab()
        head_dim = config.hidden_size // config.attention_heads
        sections = [head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6]
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections,
                "mrope_interleaved": True}  # fmt: skip
        experts = {"num_experts": 4, "num_experts_per_tok": 2,
                   "moe_intermediate_size": config.feed_forward // 2}  # fmt: skip
        # Three convolutions of these small sizes with a spread of 0.02 would let no audio through.
        tower = {**tower_fields(config), "downsample_hidden_size": 32, "initializer_range": 0.1}
        thinker = Qwen3OmniMoeThinkerConfig(
            audio_config={**tower, "output_dim": config.hidden_size},
            vision_config={"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
                           "out_hidden_size": config.hidden_size, "num_position_embeddings": 4,
                           "deepstack_visual_indexes": [0],
                           # These two are in published configs and in vLLM, not in transformers.
                           "image_size": 32, "apply_vit_abs_pos_embed": True},
            text_config={**qwen2_fields(config, tokenizer), **experts, "rope_parameters": rope},
            audio_token_id=ids["<|audio_pad|>"],
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            audio_start_token_id=ids["<|audio_start|>"],
            # These two have no field of their own, but are needed.
            **{"vision_start_token_id": ids["<|vision_start|>"],
               "audio_end_token_id": ids["<|audio_end|>"]},
        )  # fmt: skip
        extractor = WhisperFeatureExtractor(feature_size=MEL_BANDS, chunk_length=config.window_s)
        template = CHAT_TEMPLATE.replace("AUDIO_PART", "<|audio_start|><|audio_pad|><|audio_end|>")
        model = Qwen3OmniMoeThinkerForConditionalGeneration(thinker)
        return model, AudioTextProcessor(tokenizer, extractor, template)

    def window_s(self, processor: Any) -> float:
        """The tower has no window; forty minutes."""
        return MAX_SECONDS

    def tiny_window_s(self, config: TinyConfig) -> float:
        return MAX_SECONDS

    def prepare(
        self, processor: Any, prompt: str, waves: Sequence[np.ndarray]
    ) -> dict[str, Tensor]:
        features = [self._features(processor.extractor, wave) for wave in waves]
        num_frames = [features_MF.shape[1] for features_MF in features]
        num_tokens = [*map(count_tokens, num_frames)]
        inputs = {"input_ids": processor.tokenize(prompt, "<|audio_pad|>", num_tokens)}
        if not waves:
            return inputs
        features_AFM = pad_sequence([features_MF.T for features_MF in features], batch_first=True)
        masks = [torch.ones(count, dtype=torch.long) for count in num_frames]
        return inputs | {
            "input_features": features_AFM.transpose(1, 2).contiguous(),
            "feature_attention_mask": pad_sequence(masks, batch_first=True),
        }

    def _features(self, extractor: Any, wave: np.ndarray) -> Tensor:
        """features_MF of one audio, of any length and without padding, as the stock processor
        computes them."""
        features = extractor(
            wave,
            sampling_rate=self.sample_rate,
            padding="longest",
            truncation=False,
            return_tensors="pt",
        )
        return features["input_features"][0]
