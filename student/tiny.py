"""The demo's student: a small model of the true class, built on the spot.

Whisper tiny.en's encoder as the audio tower (real weights where their package is installed), and a
small Qwen2 with random weights whose tokenizer is trained on the corpus' own texts. It is saved as
an ordinary checkpoint, and everything after that treats it as one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from manifests.errors import UserError
from student.config import TinyConfig
from student.ct2_weights import load_whisper_encoder

logger = logging.getLogger(__name__)

PAD, EOS, AUDIO = "<|endoftext|>", "<|im_end|>", "<|AUDIO|>"
SPECIAL = (PAD, "<|im_start|>", EOS, AUDIO, "<|audio_bos|>", "<|audio_eos|>")


def build_tiny(folder: Path, config: TinyConfig, texts: Iterable[str], *, seed: int) -> None:
    """Writes the checkpoint of a small Qwen2-Audio; the same texts and seed give the same bytes."""
    tokenizer = train_tokenizer(texts, config.vocabulary)
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(_config(config, tokenizer))
    if config.whisper_weights:
        try:
            load_whisper_encoder(model.model.audio_tower)
        except UserError as error:
            logger.warning("the audio tower starts from random weights: %s", error)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=config.window_s)
    processor = Qwen2AudioProcessor(extractor, tokenizer)
    ids = tokenizer.get_vocab()
    model.generation_config.update(eos_token_id=ids[EOS], pad_token_id=ids[PAD])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens; knows every byte, so any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        extra_special_tokens=list(SPECIAL[1:]),
        model_input_names=["input_ids", "attention_mask"],
    )


def _config(config: TinyConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioConfig:
    audio = Qwen2AudioEncoderConfig(
        num_mel_bins=80,
        d_model=384,
        encoder_layers=4,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        max_source_positions=50 * config.window_s,
    )
    ids = tokenizer.get_vocab()
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.attention_heads,
        num_key_value_heads=config.attention_heads,
        intermediate_size=config.feed_forward,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        pad_token_id=ids[PAD],
        eos_token_id=ids[EOS],
        bos_token_id=None,
    )
    return Qwen2AudioConfig(
        audio_config=audio,
        text_config=text,
        audio_token_index=ids[AUDIO],
    )
