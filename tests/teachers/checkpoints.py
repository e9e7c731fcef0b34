"""Tiny checkpoints with random weights of the real model classes, in the hub's format.

Their outputs are meaningless; files, shapes and code paths are those of the published checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WHISPER = Path("/work/shared/models/whisper-tiny.en-hf")
"""Folder of real weights (MIT); tests that need it are skipped where it is missing."""
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
CONVOLUTIONS = {
    **SMALL,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "This", "is", "music", "a", "sound", "of", "with",
         "violin", "drums", "."]  # fmt: skip


def save(folder: Path, model: Any, extractor: Any, **files: Any) -> Path:
    """Saves a model and its feature extractor; `files` are JSON files by stem."""
    model.eval().save_pretrained(folder)
    extractor.save_pretrained(folder)
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A tiny checkpoint\n")
    return folder


def _save_waveform_model(
    kind: str, head: str, folder: Path, *, stable: bool = False, **config: Any
) -> Path:
    """Saves a wav2vec2, HuBERT or WavLM with a head; `stable` selects large models' layer norms."""
    torch.manual_seed(0)
    norms = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} if stable else {}
    settings = getattr(transformers, f"{kind}Config")(**CONVOLUTIONS, **norms, **config)
    model = getattr(transformers, f"{kind}{head}")(settings)
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=stable)
    files = {}
    if head == "ForCTC":
        files["vocab"] = {token: index for index, token in enumerate(["<pad>", "|", *"abcdef"])}
    return save(folder, model, extractor, **files)


def wav2vec2(folder: Path, *, stable: bool = False) -> Path:
    return _save_waveform_model("Wav2Vec2", "Model", folder, stable=stable)


def hubert(folder: Path, *, stable: bool = False) -> Path:
    return _save_waveform_model("Hubert", "Model", folder, stable=stable)


def wavlm(folder: Path, *, stable: bool = False) -> Path:
    return _save_waveform_model("WavLM", "Model", folder, stable=stable)


def ctc(folder: Path) -> Path:
    return _save_waveform_model("Wav2Vec2", "ForCTC", folder, vocab_size=8, pad_token_id=0)


PIECES = ["<unk>", *(f"\u2581{letter}" for letter in "abcdef"), *"abcdef", "<pad>"]


def parakeet(folder: Path) -> Path:
    """Saves a Parakeet CTC with word pieces."""
    torch.manual_seed(0)
    encoder = {**SMALL, "subsampling_conv_channels": 16, "num_mel_bins": 16}
    model = transformers.ParakeetForCTC(
        transformers.ParakeetCTCConfig(
            vocab_size=len(PIECES), pad_token_id=len(PIECES) - 1, encoder_config=encoder
        )
    )
    _scale_last_layer(model)
    save(folder, model, transformers.ParakeetFeatureExtractor(feature_size=16))
    pieces = models.Unigram([(piece, -float(len(piece) == 1)) for piece in PIECES], unk_id=0)
    tokenizer = Tokenizer(pieces)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def lasr(folder: Path) -> Path:
    """Saves a LASR CTC without a vocabulary file."""
    torch.manual_seed(0)
    encoder = {**SMALL, "subsampling_conv_channels": 16, "num_mel_bins": 16}
    model = transformers.LasrForCTC(
        transformers.LasrCTCConfig(vocab_size=14, pad_token_id=0, encoder_config=encoder)
    )
    _scale_last_layer(model)
    return save(folder, model, transformers.LasrFeatureExtractor(feature_size=16))


ALIGNER_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>"
    "{% else %}{{ part['text'] }}<timestamp><timestamp>{% endif %}{% endfor %}{% endfor %}"
)


def forced_aligner(folder: Path) -> Path:
    """Saves a Qwen3 forced aligner with a hundred steps of 80 ms, and the words in `WORDS`."""
    torch.manual_seed(0)
    special = ["<|audio_start|>", "<|audio_pad|>", "<|audio_end|>", "<timestamp>"]
    vocabulary = {word: index for index, word in enumerate([*WORDS, *special])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    names = dict(zip(("audio_bos_token", "audio_token", "audio_eos_token"), special, strict=False))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>",
        extra_special_tokens=names,
    )  # fmt: skip
    text = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(vocabulary)}
    audio = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
             "d_model": 32, "output_dim": 32, "downsample_hidden_size": 8}  # fmt: skip
    model = transformers.Qwen3ASRForTokenClassification(
        transformers.Qwen3ASRConfig(
            text_config=text, audio_config=audio, num_labels=100,
            audio_token_id=vocabulary["<|audio_pad|>"],
            timestamp_token_id=vocabulary["<timestamp>"], pad_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    save(folder, model, transformers.Qwen3ASRFeatureExtractor())
    processor = transformers.Qwen3ASRProcessor(
        transformers.Qwen3ASRFeatureExtractor(), fast, chat_template=ALIGNER_TEMPLATE
    )
    processor.save_pretrained(folder)
    return folder


def speakers(folder: Path) -> Path:
    """Saves a Nemotron 3 Diarization with chunks of 2.4 s and four speakers."""
    torch.manual_seed(0)
    audio = {**SMALL, "num_mel_bins": 16}
    head = {"hidden_size": 16, "num_speakers": 4, "audio_hidden_size": SMALL["hidden_size"]}
    streaming = {"speaker_cache_length": 16, "num_speakers": 4, "fifo_length": 8}
    model = transformers.Nemotron3DiarizationForAudioFrameClassification(
        transformers.Nemotron3DiarizationConfig(
            audio_config=audio, head_config=head, streaming_config=streaming, chunk_length=30,
            chunk_right_context=4, fifo_length=8, speaker_cache_update_period=10,
        )
    )  # fmt: skip
    _scale_last_layer(model)
    with torch.no_grad():
        model.model.upsampler.conv.weight.add_(
            0.1 * torch.randn(model.model.upsampler.conv.weight.shape)
        )
    extractor = transformers.NemotronAsrStreamingFeatureExtractor(feature_size=16)
    return save(folder, model, extractor)


def speaker_frames(folder: Path) -> Path:
    """Saves a wav2vec2 with a head per frame, for two speakers without names."""
    return _save_waveform_model("Wav2Vec2", "ForAudioFrameClassification", folder, num_labels=2)


def _scale_last_layer(model: Any) -> None:
    """Scales up the last layer, so that a random network gives confident outputs."""
    with torch.no_grad():
        for name in ("ctc_head", "classifier"):
            head = getattr(model, name, None)
            if head is not None:
                for weight in head.parameters():
                    weight.mul_(30 if weight.ndim > 1 else 1)


def emotion(folder: Path) -> Path:
    labels = {"id2label": {0: "neutral", 1: "happy", 2: "angry", 3: "sad"}}
    return _save_waveform_model(
        "Hubert", "ForSequenceClassification", folder, classifier_proj_size=16,
        use_weighted_layer_sum=True, **labels,
    )  # fmt: skip


def audeering(folder: Path) -> Path:
    from teachers.adapters.audio_classifier import emotion_model

    torch.manual_seed(0)
    model = emotion_model()(transformers.Wav2Vec2Config(**CONVOLUTIONS, num_labels=3))
    return save(folder, model, transformers.Wav2Vec2FeatureExtractor())


def mert(folder: Path, *, rate: int = 24_000) -> Path:
    torch.manual_seed(0)
    model = transformers.HubertModel(transformers.HubertConfig(**CONVOLUTIONS))
    save(folder, model, transformers.Wav2Vec2FeatureExtractor(sampling_rate=rate))
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {
        "model_type": "mert_model", "architectures": ["MERTModel"], "sample_rate": rate,
        "auto_map": {"AutoModel": "modeling_MERT.MERTModel"}, "feature_extractor_cqt": False,
        "attention_relax": -1.0, "deepnorm": False,
    }  # fmt: skip
    path.write_text(json.dumps(config))
    return folder


def ast(folder: Path, *, classes: int = 70) -> Path:
    torch.manual_seed(0)
    model = transformers.ASTForAudioClassification(
        transformers.ASTConfig(**{**SMALL, "num_hidden_layers": 2}, num_labels=classes)
    )
    return save(folder, model, transformers.ASTFeatureExtractor())


def clap(folder: Path, *, fused: bool = False) -> Path:
    torch.manual_seed(0)
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "vocab_size": 50, "max_position_embeddings": 64}  # fmt: skip
    audio = {"patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "hidden_size": 64,
             "num_attention_heads": [1, 2, 2, 4], "enable_fusion": fused,
             "enable_patch_fusion": fused}  # fmt: skip
    model = transformers.ClapModel(
        transformers.ClapConfig(
            text_config={**text, "projection_dim": 12},
            audio_config={**audio, "projection_dim": 12},
            projection_dim=12,
        )
    )
    truncation = "fusion" if fused else "rand_trunc"
    save(folder, model, transformers.ClapFeatureExtractor(truncation=truncation))
    return word_tokenizer(folder)


def pe_audio_frame(folder: Path) -> Path:
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": 50, "pad_token_id": 1, "bos_token_id": 0,
            "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}  # fmt: skip
    dac = {"encoder_hidden_size": 4, "downsampling_ratios": [2, 8, 10, 12], "hidden_size": 64,
           "codebook_dim": 8}  # fmt: skip
    audio = {"dac_config": dac, "hidden_size": 32, "intermediate_size": 48, "head_dim": 16,
             "num_hidden_layers": 2, "num_attention_heads": 2}  # fmt: skip
    config = transformers.PeAudioConfig(text_config=text, audio_config=audio)
    model = transformers.PeAudioFrameLevelModel(config)
    with torch.no_grad():
        # The initial convolutions are so small that the audio would hardly affect the frames.
        for module in model.modules():
            if isinstance(module, torch.nn.Conv1d):
                module.weight.mul_(0.7 / (0.02 * module.weight[0].numel() ** 0.5))
                module.bias.normal_(std=0.1)
        model.text_audio_logit_scale.fill_(20.0)
    save(folder, model, transformers.PeAudioFeatureExtractor())
    return word_tokenizer(folder)


def word_tokenizer(folder: Path) -> Path:
    """Saves a tokenizer of a few words."""
    words = models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


def whisper(folder: Path) -> Path:
    """Saves a multilingual Whisper with the special tokens that the family needs."""
    torch.manual_seed(0)
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>",
               "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>",
               "<|notimestamps|>", "<|0.00|>"]  # fmt: skip
    plain = [f"Ġ{letter}" for letter in "abcdefghijklmnopqrstuvw"]
    vocabulary = {token: index for index, token in enumerate([*plain, *special])}
    start = len(plain)
    model = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=len(vocabulary), d_model=32, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
            decoder_ffn_dim=32, pad_token_id=start, bos_token_id=start, eos_token_id=start,
            decoder_start_token_id=start + 1,
        )
    )  # fmt: skip
    generation = {
        "is_multilingual": True, "lang_to_id": {"<|en|>": start + 2, "<|de|>": start + 3},
        "suppress_tokens": [], "begin_suppress_tokens": [start], "eos_token_id": start,
        "alignment_heads": [[1, 0], [1, 1]],
    }  # fmt: skip
    save(folder, model, transformers.WhisperFeatureExtractor(), generation_config=generation)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="Ġa"))
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


MAKERS: dict[str, tuple[Callable[[Path], Path], str, dict[str, Any]]] = {
    "whisper": (whisper, "whisper", {}),
    "wav2vec2": (wav2vec2, "encoder", {"layer": 2}),
    "hubert": (hubert, "encoder", {}),
    "wavlm": (wavlm, "encoder", {"frame_rate": 25.0}),
    "ast encoder": (ast, "encoder", {}),
    "whisper encoder": (whisper, "encoder", {"layer": 1}),
    "mert": (mert, "mert", {"layer": 2}),
    "ctc": (ctc, "ctc", {"features": True}),
    "parakeet": (parakeet, "ctc", {"features": True}),
    "lasr": (lasr, "ctc", {}),
    "speakers": (speakers, "frame_classifier", {}),
    "speaker frames": (speaker_frames, "frame_classifier", {"features": True}),
    "emotion": (emotion, "audio_classifier", {"step_s": 1.0}),
    "audeering": (audeering, "audeering", {}),
    "ast": (ast, "audio_classifier", {"scores": "sigmoid"}),
    "clap": (clap, "clap", {"labels": ["violin", "drums"]}),
    "pe_audio_frame": (
        pe_audio_frame,
        "pe_audio_frame",
        {"phrases": ["This is music", "a violin", "drums ."]},
    ),
}
"""Name -> maker, family, settings."""


def sound(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Returns a gliding tone in noise, float32."""
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (200 + 90 * np.sin(2.1 * time)) * time) * (1 + np.sin(9 * time))
    noise = np.random.default_rng(seed).normal(size=len(time))
    return (0.1 * tone + 0.02 * noise).astype(np.float32)


def openai_whisper(path: Path, source: Path | None = None) -> Path:
    """Saves OpenAI's `.pt` file: random weights, or those of a checkpoint of transformers."""
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    width, heads, layers = (384, 6, 4) if source else (32, 2, 1)
    dims = ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=width, n_audio_head=heads,
        n_audio_layer=layers, n_vocab=51864, n_text_ctx=448, n_text_state=width,
        n_text_head=heads, n_text_layer=layers,
    )  # fmt: skip
    model = Whisper(dims)
    if source:
        reference = transformers.WhisperForConditionalGeneration.from_pretrained(
            source, dtype=torch.float32
        )
        model.load_state_dict(_as_openai(reference.model.state_dict()), strict=False)
    torch.save({"dims": vars(dims), "model_state_dict": model.state_dict()}, path)
    return path


def _as_openai(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames Whisper's weights from transformers' names to OpenAI's."""
    renamed = {}
    for name, value in state.items():
        for reference, ours in (
            ("layers.", "blocks."), ("encoder_attn_layer_norm", "cross_attn_ln"),
            ("self_attn_layer_norm", "attn_ln"), ("encoder_attn", "cross_attn"),
            ("self_attn", "attn"), ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"),
            ("out_proj", "out"), ("final_layer_norm", "mlp_ln"), ("fc1", "mlp.0"),
            ("fc2", "mlp.2"), ("encoder.layer_norm", "encoder.ln_post"),
            ("decoder.layer_norm", "decoder.ln"), ("embed_tokens", "token_embedding"),
            ("encoder.embed_positions.weight", "encoder.positional_embedding"),
            ("decoder.embed_positions.weight", "decoder.positional_embedding"),
        ):  # fmt: skip
            name = name.replace(reference, ours)
        renamed[name] = value
    return renamed
