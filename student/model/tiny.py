"""Small, randomly initialised students of the real classes, for the demo, tests and benchmarks.

The audio tower has Whisper tiny's sizes and, for Qwen2-Audio, its pretrained weights if their
package is installed. The language model is random, with a tokenizer trained on the corpus' texts.
The result is saved and used as an ordinary checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from student.config import TinyConfig
from student.model.backbones.registry import named_backbone

MEL_BANDS = 80

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'audio' %}AUDIO_PART"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, which most families use; AUDIO_PART is replaced by the family's own placeholder."""


def build_tiny(folder: Path, config: TinyConfig, texts: Iterable[str], *, seed: int) -> None:
    """Writes the checkpoint of a small model; the same texts and seed give the same bytes."""
    backbone = named_backbone(config.family)
    tokenizer = train_tokenizer(texts, config.vocabulary, backbone.special_tokens)
    torch.manual_seed(seed)
    model, processor = backbone.tiny(config, tokenizer)
    pad, _, end, *_ = (tokenizer.get_vocab()[token] for token in backbone.special_tokens)
    assert model.generation_config is not None
    model.generation_config.update(eos_token_id=end, pad_token_id=pad)
    backbone.save(model, processor, folder, base="")


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, special_tokens: tuple[str, ...]
) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer with a family's special tokens; it covers any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special_tokens[0],
        eos_token=special_tokens[2],
        extra_special_tokens=list(special_tokens[1:]),
        model_input_names=["input_ids", "attention_mask"],
    )


def tower_fields(config: TinyConfig) -> dict[str, Any]:
    """Config fields of a Whisper-like audio tower with a shorter window."""
    return {
        "num_mel_bins": MEL_BANDS,
        "d_model": config.tower_width,
        "encoder_layers": config.tower_layers,
        "encoder_attention_heads": max(1, config.tower_width // 64),
        "encoder_ffn_dim": 4 * config.tower_width,
        "max_source_positions": 50 * config.window_s,
    }


def qwen2_fields(config: TinyConfig, tokenizer: Any) -> dict[str, Any]:
    """Config fields of the small Qwen2 language model."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.attention_heads,
        "num_key_value_heads": config.attention_heads,
        "intermediate_size": config.feed_forward,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "initializer_range": config.init_std,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
