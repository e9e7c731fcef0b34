"""Makes checkpoints of the families with random weights, at real or toy size.

Random weights take as long as real ones. Whisper does not transcribe (`transcribe: false`), because
random words never end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf


@dataclass(frozen=True, slots=True)
class Expert:
    """One family at one size."""

    family: str
    settings: dict[str, Any]
    make: Callable[[], tuple[Any, Any]] | None = None
    """Model and feature extractor; None if the family includes its weights."""


WAVES_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
               "intermediate_size": 4096, "feat_extract_norm": "layer",
               "do_stable_layer_norm": True}  # fmt: skip
WAVES_TOY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64, "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16,
             "num_conv_pos_embedding_groups": 4}  # fmt: skip
BASE_TOY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64}  # fmt: skip
WHISPER_LARGE = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20,
                 "decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120,
                 "num_mel_bins": 128, "vocab_size": 51866}  # fmt: skip
WHISPER_TOY = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4,
               "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
               "num_mel_bins": 80, "vocab_size": 51866}  # fmt: skip


def experts(*, toy: bool) -> dict[str, Expert]:
    """Returns name -> expert."""
    whisper = WHISPER_TOY if toy else WHISPER_LARGE
    waves = WAVES_TOY if toy else WAVES_LARGE
    # The family reads layer 7.
    base_waves = {**WAVES_TOY, "num_hidden_layers": 8} if toy else {}
    base = BASE_TOY if toy else {}
    silent = {"transcribe": False}

    def build_whisper(decoder_layers: int) -> Callable[[], tuple[Any, Any]]:
        def make() -> tuple[Any, Any]:
            config = hf.WhisperConfig(**whisper, decoder_layers=decoder_layers)
            extractor = hf.WhisperFeatureExtractor(feature_size=whisper["num_mel_bins"])
            return hf.WhisperForConditionalGeneration(config), extractor

        return make

    return {
        "whisper large-v3": Expert("whisper", silent, build_whisper(2 if toy else 32)),
        "whisper turbo": Expert("whisper", silent, build_whisper(1 if toy else 4)),
        "crepe, full": Expert("crepe", {"model": "tiny" if toy else "full"}),
        "wav2vec2-large": Expert("encoder", {}, lambda: (
            hf.Wav2Vec2Model(hf.Wav2Vec2Config(**waves)),
            hf.Wav2Vec2FeatureExtractor(return_attention_mask=True))),
        "hubert-large, emotion": Expert("audio_classifier", {}, lambda: (
            hf.HubertForSequenceClassification(hf.HubertConfig(**waves, num_labels=4)),
            hf.Wav2Vec2FeatureExtractor(return_attention_mask=True))),
        "ast": Expert("audio_classifier", {"scores": "sigmoid"}, lambda: (
            hf.ASTForAudioClassification(hf.ASTConfig(**base, num_labels=527)),
            hf.ASTFeatureExtractor())),
        "mert": Expert("mert", {}, lambda: (
            hf.HubertModel(hf.HubertConfig(**base_waves)),
            hf.Wav2Vec2FeatureExtractor(sampling_rate=24_000))),
    }  # fmt: skip


def save_checkpoint(expert: Expert, folder: Path, *, half: torch.dtype | None) -> dict[str, Any]:
    """Returns the settings of a teacher, and writes its checkpoint if it needs one.

    Args:
        expert: Family and size.
        folder: Folder for its checkpoint.
        half: Precision to run in; None for float32.
    """
    settings = dict(expert.settings)
    if expert.make is None:
        if half is not None and half is torch.float16:
            settings["half"] = True
        return settings
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        model, extractor = expert.make()
        model.eval().save_pretrained(folder)
        extractor.save_pretrained(folder)
    settings["model"] = str(folder)
    if half is not None:
        settings["dtype"] = str(half).removeprefix("torch.")
    return settings
