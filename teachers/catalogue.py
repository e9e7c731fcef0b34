"""The table of the families of experts: addresses and descriptions.

`teachers.registry` looks up adapters in it, `coat-cache teachers` prints it, and a test compares
docs/teachers.md with it.

Numbers that depend on the checkpoint are those of the checkpoint named here; if its weights are on
the machine, the teacher's own spec is used instead. Memory is that of the weights in half precision
(single precision for experts without it); activations need more, depending on `batch_seconds`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family, described by its most common checkpoint."""

    name: str
    address: str
    """`module:Class` of the adapter, imported when it is used."""
    expert: str
    model: str
    """The checkpoint described here; empty for weights that are part of a wheel."""
    streams: str
    """Stream, width @ frames per second."""
    license: str
    """Licence of the weights."""
    memory_gb: float
    needs: tuple[str, ...] = ()
    """Modules that it imports."""


HF = ("transformers", "torch")

CATALOGUE: tuple[Family, ...] = (
    Family(
        name="whisper_ct2", address="teachers.adapters.whisper_ct2:WhisperCT2",
        expert="Whisper by CTranslate2, for CPU farms; the packaged tiny.en knows English only",
        model="",
        streams="encoder 384 @ 50 (large-v3: 1280); words", license="MIT", memory_gb=0.1,
        needs=("faster_whisper",),
    ),
    Family(
        name="egemaps", address="teachers.adapters.egemaps:EGeMAPS",
        expert="openSMILE eGeMAPSv02 descriptors", model="",
        streams="lld 25 @ 100",
        license="openSMILE: research and private use; commercial use needs a licence",
        memory_gb=0.0, needs=("opensmile",),
    ),
    Family(
        name="crepe", address="teachers.adapters.crepe:Crepe",
        expert="CREPE pitch, tiny or full", model="",
        streams="salience 361 @ 100, f0 2 @ 100", license="MIT", memory_gb=0.1, needs=("torch",),
    ),
    Family(
        name="swift_f0", address="teachers.adapters.swift_f0:SwiftF0",
        expert="SwiftF0 pitch, the fast tracker", model="",
        streams="salience 361 @ 62.5, f0 2 @ 62.5", license="MIT", memory_gb=0.0,
        needs=("onnxruntime",),
    ),
    Family(
        name="rmvpe", address="teachers.adapters.rmvpe:RMVPE",
        expert="RMVPE, pitch of singing and of speech over music; an .onnx file", model="",
        streams="salience 361 @ 100, f0 2 @ 100", license="MIT", memory_gb=0.4,
        needs=("onnxruntime",),
    ),
    Family(
        name="yamnet", address="teachers.adapters.yamnet:YAMNet",
        expert="YAMNet, AudioSet classes", model="",
        streams="events 521 @ 2.1", license="Apache-2.0", memory_gb=0.0, needs=("onnxruntime",),
    ),
    Family(
        name="basic_pitch", address="teachers.adapters.basic_pitch:BasicPitch",
        expert="Basic Pitch, notes", model="",
        streams="notes 88, onsets 88, contours 264 @ 86", license="Apache-2.0", memory_gb=0.0,
        needs=("onnxruntime",),
    ),
    Family(
        name="whisper", address="teachers.adapters.whisper_hf:Whisper",
        expert="Whisper in transformers, batched, half precision",
        model="openai/whisper-large-v3", streams="encoder 1280 @ 50; words", license="Apache-2.0",
        memory_gb=3.1, needs=(*HF, "faster_whisper"),
    ),
    Family(
        name="openai_whisper", address="teachers.adapters.openai_whisper:OpenAIWhisper",
        expert="OpenAI's own .pt checkpoints", model="",
        streams="encoder 1280 @ 50 (large); words", license="MIT", memory_gb=3.1,
        needs=("whisper", "torch"),
    ),
    Family(
        name="ctc", address="teachers.adapters.ctc:CTC",
        expert="CTC: phones, characters, Parakeet's pieces of words; alignment of known texts",
        model="facebook/wav2vec2-lv-60-espeak-cv-ft",
        streams="posteriors 392 @ 50 (Parakeet: 1025 @ 12.5); words",
        license="Apache-2.0", memory_gb=0.6, needs=HF,
    ),
    Family(
        name="frame_classifier", address="teachers.adapters.frame_classifier:FrameClassifier",
        expert="any AutoModelForAudioFrameClassification: who speaks when",
        model="nvidia/Nemotron-3-Diarization", streams="posteriors 8 @ 100",
        license="OpenMDW-1.1", memory_gb=0.2, needs=HF,
    ),
    Family(
        name="forced_aligner", address="teachers.adapters.forced_aligner:ForcedAligner",
        expert="Qwen3 forced aligner: when the words of known texts are said",
        model="Qwen/Qwen3-ForcedAligner-0.6B-hf", streams="words 2 @ 12.5; words",
        license="Apache-2.0", memory_gb=1.8, needs=HF,
    ),
    Family(
        name="audio_classifier", address="teachers.adapters.audio_classifier:AudioClassifier",
        expert="any AutoModelForAudioClassification: AudioSet, emotion",
        model="MIT/ast-finetuned-audioset-10-10-0.4593",
        streams="posteriors 527 @ 1, frames 768 @ 10", license="BSD-3-Clause", memory_gb=0.2,
        needs=HF,
    ),
    Family(
        name="pe_audio_frame", address="teachers.adapters.pe_audio_frame:PEAudioFrame",
        expert="PE-A-Frame: sounds described by free text, every 40 ms",
        model="facebook/pe-a-frame-large",
        streams="posteriors 527 or your phrases @ 25, frames 1024 @ 25", license="Apache-2.0",
        memory_gb=2.8, needs=HF,
    ),
    Family(
        name="audeering", address="teachers.adapters.audio_classifier:AudEERING",
        expert="arousal, dominance, valence",
        model="audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        streams="dimensions 3 @ 1, frames 1024 @ 50",
        license="CC-BY-NC-SA-4.0: no commercial use", memory_gb=0.3, needs=HF,
    ),
    Family(
        name="clap", address="teachers.adapters.clap:CLAP",
        expert="CLAP: sound and music described by text", model="laion/larger_clap_music",
        streams="frames 768 @ 3.2, posteriors of your labels @ 3.2", license="Apache-2.0",
        memory_gb=0.4, needs=HF,
    ),
    Family(
        name="mert", address="teachers.adapters.encoder:MERT",
        expert="MERT, music", model="m-a-p/MERT-v1-95M", streams="frames 768 @ 75",
        license="CC-BY-NC-4.0: no commercial use", memory_gb=0.2, needs=HF,
    ),
    Family(
        name="beat_this", address="teachers.adapters.beat_this:BeatThis",
        expert="Beat This!, beats and downbeats; the authors' .ckpt files", model="",
        streams="posteriors 2 @ 50; times of beats", license="MIT", memory_gb=0.1,
        needs=("torch",),
    ),
    Family(
        name="encoder", address="teachers.adapters.encoder:Encoder",
        expert="features of any audio encoder: transformers:MODEL_ID",
        model="microsoft/wavlm-large", streams="frames 1024 @ 50", license="see its model card",
        memory_gb=0.6, needs=HF,
    ),
)  # fmt: skip
