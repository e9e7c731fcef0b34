"""Makes checkpoints of the families with random weights, at real or toy size.

Random weights take as long as real ones. Whisper does not transcribe (`transcribe: false`), because
random words never end.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tests.teachers.checkpoints import word_tokenizer


@dataclass(frozen=True, slots=True)
class Expert:
    """One family at one size."""

    family: str
    settings: dict[str, Any]
    make: Callable[[], tuple[Any, Any]] | None = None
    """Model and feature extractor; None if the family includes its weights."""
    finish: Callable[[Path], Any] | None = None
    """Writes what else the checkpoint needs, such as a tokenizer."""
    network: Callable[[Any], Callable[..., Any]] | None = lambda model: model
    """Model -> the network that processes audio; None if it is not measured alone."""


WAVES_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
               "intermediate_size": 4096, "feat_extract_norm": "layer",
               "do_stable_layer_norm": True}  # fmt: skip
WAVES_TOY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64, "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16,
             "num_conv_pos_embedding_groups": 4}  # fmt: skip
BASE_TOY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64}  # fmt: skip
CLAP_LARGE = {"patch_embeds_hidden_size": 128, "depths": [2, 2, 12, 2], "hidden_size": 1024}
"""The audio tower of laion/larger_clap_music."""
CLAP_TOY = {"patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "hidden_size": 64,
            "num_attention_heads": [1, 2, 2, 4]}  # fmt: skip
CLAP_TEXT_TOY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                 "intermediate_size": 16, "vocab_size": 50}  # fmt: skip
FRAME_LEVEL_TOY = {
    "text_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
                    "num_attention_heads": 2, "vocab_size": 50, "pad_token_id": 1,
                    "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2},
    "audio_config": {"dac_config": {"encoder_hidden_size": 4,
                                    "downsampling_ratios": [2, 8, 10, 12], "hidden_size": 64,
                                    "codebook_dim": 8},
                     "hidden_size": 32, "intermediate_size": 48, "head_dim": 16,
                     "num_hidden_layers": 2, "num_attention_heads": 2},
}  # fmt: skip
SPEAKERS_TOY = {
    "audio_config": {**BASE_TOY, "num_mel_bins": 16},
    "head_config": {"hidden_size": 16, "num_speakers": 4, "audio_hidden_size": 32},
    "streaming_config": {"speaker_cache_length": 16, "num_speakers": 4, "fifo_length": 8},
    "chunk_length": 30, "chunk_right_context": 4, "fifo_length": 8,
    "speaker_cache_update_period": 10,
}  # fmt: skip
PHONES, PHONES_TOY = 392, 8
"""Classes of facebook/wav2vec2-lv-60-espeak-cv-ft."""
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
    phones = PHONES_TOY if toy else PHONES

    def save_phones(folder: Path) -> None:
        vocabulary = {"<pad>": 0} | {f"phone{index}": index for index in range(1, phones)}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))

    def build_whisper(decoder_layers: int) -> Callable[[], tuple[Any, Any]]:
        def make() -> tuple[Any, Any]:
            config = hf.WhisperConfig(**whisper, decoder_layers=decoder_layers)
            extractor = hf.WhisperFeatureExtractor(feature_size=whisper["num_mel_bins"])
            return hf.WhisperForConditionalGeneration(config), extractor

        return make

    def build_diarization() -> tuple[Any, Any]:
        config = hf.Nemotron3DiarizationConfig(**SPEAKERS_TOY if toy else {})
        model = hf.Nemotron3DiarizationForAudioFrameClassification(config)
        with torch.no_grad():
            # The upsampler starts at zero, and a random classifier gives nearly 0.5 everywhere.
            upsampler = model.model.upsampler.conv.weight
            upsampler.add_(0.1 * torch.randn(upsampler.shape))
            for weight in model.classifier.parameters():
                weight.mul_(30 if weight.ndim > 1 else 1)
        return model, hf.NemotronAsrStreamingFeatureExtractor(feature_size=16 if toy else 128)

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
        "wav2vec2-large, phones": Expert("ctc", {}, lambda: (
            hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**waves, vocab_size=phones, pad_token_id=0)),
            hf.Wav2Vec2FeatureExtractor(return_attention_mask=True)), save_phones),
        "clap, larger": Expert("clap", {"labels": ["violin", "drums"]}, lambda: (
            hf.ClapModel(hf.ClapConfig(audio_config=CLAP_TOY if toy else CLAP_LARGE,
                                       text_config=CLAP_TEXT_TOY if toy else {})),
            hf.ClapFeatureExtractor(truncation="rand_trunc")),
            word_tokenizer, lambda model: model.audio_model),
        "pe-a-frame": Expert("pe_audio_frame", {"phrases": ["a violin", "drums"]}, lambda: (
            hf.PeAudioFrameLevelModel(hf.PeAudioConfig(**FRAME_LEVEL_TOY if toy else {})),
            hf.PeAudioFeatureExtractor()),
            word_tokenizer, lambda model: model.get_audio_embeds),
        "nemotron 3 diarization": Expert("frame_classifier", {}, build_diarization, network=None),
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
        if expert.finish is not None:
            expert.finish(folder)
    settings["model"] = str(folder)
    if half is not None:
        settings["dtype"] = str(half).removeprefix("torch.")
    return settings
