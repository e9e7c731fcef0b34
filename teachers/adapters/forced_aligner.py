"""Aligns known texts with audio: Qwen3-ForcedAligner (github.com/QwenLM/Qwen3-ASR).

The corpus must have texts. The model receives a clip and its words, and predicts the start and end
of each word in steps of 80 ms. The network is transformers' `Qwen3ASRForTokenClassification`; its
processor prepares the inputs and decodes the outputs. The stream contains two targets: whether a
word is spoken, and whether one begins. A clip without a text, or longer than the training data of
the model, is recorded as failed. `ctc` with `align: true` does the same with CTC models, for other
languages.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.packaged_weights import sha256
from manifests.streams.specs import StreamSpec, TeacherSpec
from manifests.streams.transcript import Word
from teachers.protocol import Targets
from teachers.toolkit import checkpoints
from teachers.toolkit import device as devices
from teachers.toolkit.checkpoints import HubSettings
from teachers.toolkit.frame_grid import num_frames

# Legend: T frames.

SAMPLE_RATE = 16_000
LONGEST_S = 300.0
TOKENIZERS = {"ja": "nagisa", "ko": "soynlp"}
"""Language -> the package that splits its texts into words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedAlignerSettings(HubSettings):
    """Settings of `ForcedAligner`."""

    model: str = "Qwen/Qwen3-ForcedAligner-0.6B-hf"
    """Hub id or folder of a Qwen3 forced aligner in transformers' format."""
    language: str = ""
    """Language of all texts as a code (zh, yue, en, fr, de, it, ja, ko, pt, ru, es). Empty: words
    are separated by spaces, and each Chinese character is a word."""


class ForcedAligner:
    """Times of the words of a clip's text."""

    Settings = ForcedAlignerSettings

    def __init__(self, name: str, settings: ForcedAlignerSettings) -> None:
        self._name = name
        self._settings = settings
        self._checkpoint = checkpoints.find(settings)
        config = self._checkpoint.config
        architecture = (config.get("architectures") or [""])[0]
        if architecture != "Qwen3ASRForTokenClassification":
            raise UserError(
                f"teacher {name}: {settings.model} is not a Qwen3 forced aligner; its "
                f"configuration names {architecture or 'no architecture'}"
            )
        if settings.frame_rate:
            raise UserError(f"teacher {name}: the steps of the aligner are fixed; drop frame_rate")
        package = TOKENIZERS.get(settings.language)
        if package and importlib.util.find_spec(package) is None:
            raise UserError(
                f"teacher {name}: language {settings.language} needs the package {package}; run: "
                f"pip install {package}"
            )
        processor = self._checkpoint.read(checkpoints.PROCESSOR)
        self._hop_s = processor.get("timestamp_segment_time", 80) / 1000
        self.budget = settings.budget("cpu")
        self._model: Any = None
        self._processor: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        stream = StreamSpec(
            name="words", kind="multilabel", dim=2, names=("word", "word begins"), codec="uint8",
            start_s=self._hop_s / 2, hop_s=self._hop_s, window_s=self._hop_s,
        )  # fmt: skip
        return TeacherSpec(
            name=self._name,
            family="forced_aligner",
            revision=1,
            settings=self._settings.recorded(),
            weights=self._checkpoint.digests() | self._template(),
            sample_rate=SAMPLE_RATE,
            streams=(stream,),
            license=self._checkpoint.license(self._settings.license),
        )

    def _template(self) -> dict[str, str]:
        """The digest of the template that puts words and time marks into the model's input."""
        path = self._checkpoint.folder / "chat_template.jinja"
        return {path.name: sha256(path)} if path.is_file() else {}

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        checkpoints.offline()
        from transformers import AutoProcessor, Qwen3ASRForTokenClassification

        self._model = checkpoints.load(
            Qwen3ASRForTokenClassification, self._checkpoint, self._settings, device=device,
            num_threads=num_threads,
        )  # fmt: skip
        self._processor = AutoProcessor.from_pretrained(
            self._checkpoint.folder, local_files_only=True
        )
        self.budget = self._settings.budget(device)

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        return self.extract_with_texts(waves, [None] * len(waves))

    def extract_with_texts(
        self, waves: Sequence[np.ndarray], texts: Sequence[str | None]
    ) -> list[Targets]:
        """See `teachers.protocol.TextTeacher`.

        Raises:
            ValueError: a clip has no text with words in it, or is too long.
        """
        for wave, text in zip(waves, texts, strict=True):
            seconds = len(wave) / SAMPLE_RATE
            if not text or not self._processor.split_words_for_alignment(text):
                raise ValueError("the clip has no text to align")
            if seconds > LONGEST_S:
                raise ValueError(f"the clip has {seconds:.0f} s; the aligner takes {LONGEST_S:g} s")
        known = [text or "" for text in texts]
        words = self.budget.run(
            [len(wave) for wave in waves],
            lambda rows: self._align([waves[row] for row in rows], [known[row] for row in rows]),
            per_second=SAMPLE_RATE,
        )
        return [
            Targets(
                {"words": self._frames(each, len(wave))},
                {"text": text, "words": each, "language": self._settings.language},
            )
            for wave, text, each in zip(waves, known, words, strict=True)
        ]

    def _align(self, waves: Sequence[np.ndarray], texts: Sequence[str]) -> list[list[Word]]:
        """Words of each clip with their times."""
        import torch

        inputs, spelled = self._processor.prepare_forced_aligner_inputs(
            audio=[wave.astype(np.float32, copy=False) for wave in waves],
            transcript=list(texts), language=self._settings.language or None,
        )  # fmt: skip
        with devices.turn(), torch.inference_mode():
            logits = self._model(**checkpoints.moved(inputs, self._model)).logits.float().cpu()
        aligned = self._processor.decode_forced_alignment(
            logits, inputs["input_ids"], spelled, self._model.config.timestamp_token_id
        )
        clips = []
        for wave, words in zip(waves, aligned, strict=True):
            # The last step may extend beyond the clip.
            end = len(wave) / SAMPLE_RATE
            clips.append([
                Word(word["text"], min(word["start_time"], end), min(word["end_time"], end))
                for word in words
            ])  # fmt: skip
        return clips

    def _frames(self, words: Sequence[Word], num_samples: int) -> np.ndarray:
        """Returns (T, 2): 1 where a word is spoken, and 1 where a word begins."""
        count = num_frames(num_samples, SAMPLE_RATE, start_s=self._hop_s / 2, hop_s=self._hop_s)
        frames_T2 = np.zeros((count, 2), np.float32)
        for word in words:
            first = min(round(word.start_s / self._hop_s), count - 1)
            end = max(first + 1, math.ceil(word.end_s / self._hop_s - 1e-6))
            frames_T2[first:end, 0] = 1
            frames_T2[first, 1] = 1
        return frames_T2
