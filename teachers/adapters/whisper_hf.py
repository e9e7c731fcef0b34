"""ASR with any Whisper checkpoint of transformers: encoder frames, and a transcript with word
times.

This family is for GPUs (`teachers.adapters.whisper_ct2` is for CPUs). The encoder runs over batches
of windows with fused attention in half precision, once for frames and words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.streams.specs import TeacherSpec
from teachers.protocol import Targets
from teachers.toolkit import checkpoints, device
from teachers.toolkit.checkpoints import HubSettings
from teachers.toolkit.whisper_windows import (
    GRID,
    HOP,
    HOP_S,
    MEL_TAIL,
    SAMPLE_RATE,
    WINDOW_FRAMES,
    WindowResult,
    build_targets,
    has_no_words,
    over_windows,
)
from teachers.toolkit.windowing import Window
from teachers.toolkit.words import warp

# Legend: B batch, T frames of 20 ms, D width.

MULTILINGUAL_VOCABULARY = 51_865
"""A vocabulary of at least this size is multilingual, if the checkpoint does not state it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperSettings(HubSettings):
    """Settings of `Whisper`."""

    model: str = "openai/whisper-large-v3"
    """Hub id or folder of a Whisper checkpoint in transformers' format."""
    layer: int = -1
    """Index of the encoder state to store, as in transformers; -1 is the encoder's output."""
    language: str = "en"
    """Language of a multilingual model's transcripts; empty detects it for every window."""
    transcribe: bool = True
    """Write a transcript with word times in addition to the frames."""
    silence_step: int = 1
    """Stride at which frames of the silence after a clip are computed. 1 is exact; 4 takes half the
    time on short clips (tiny.en: cosine 0.999, the same words)."""


class Whisper:
    """Encoder frames every 20 ms, and a transcript."""

    Settings = WhisperSettings
    overlaps = True

    def __init__(self, name: str, settings: WhisperSettings) -> None:
        if not 1 <= settings.silence_step <= 16:
            raise UserError(
                f"teacher {name}: silence_step must be in [1, 16]; found {settings.silence_step}"
            )
        self._name = name
        self._settings = settings
        self._checkpoint = checkpoints.find(settings)
        if self._checkpoint.config.get("model_type") != "whisper":
            raise UserError(f"teacher {name}: {settings.model} is not a Whisper checkpoint")
        self._pool = GRID.pool(settings.frame_rate)
        self._device = "cpu"
        self.budget = settings.budget("cpu")
        self._model: Any = None
        self._mel: Any = None
        self._tokenizer: Any = None
        self._decoder: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        width = self._checkpoint.config["d_model"]
        stream = GRID.stream("encoder", "features", width, "int8", pool=self._pool)
        return TeacherSpec(
            name=self._name,
            family="whisper",
            revision=2,
            settings=self._settings.recorded(),
            weights=self._checkpoint.digests(),
            sample_rate=SAMPLE_RATE,
            streams=(stream,),
            license=self._checkpoint.license(self._settings.license),
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        checkpoints.offline()
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

        self._device = device
        self.budget = self._settings.budget(device)
        self._model = checkpoints.load(
            WhisperForConditionalGeneration, self._checkpoint, self._settings,
            device=device, num_threads=num_threads,
        )  # fmt: skip
        self._mel = WhisperFeatureExtractor.from_pretrained(self._checkpoint.folder)
        if self._settings.transcribe:
            self._tokenizer = self._decode_words()
            from teachers.toolkit.whisper_network import Decoder

            self._decoder = Decoder(
                self._model, no_speech=self._tokenizer.no_speech, eot=self._tokenizer.eot,
                timestamps=self._tokenizer.timestamp_begin,
            )  # fmt: skip

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        from teachers.toolkit.whisper_network import kept_frames

        clips = over_windows(
            waves, self._forward_batch, budget=self.budget, pool=self._pool,
            padded_frames=lambda frames, _: kept_frames(frames, self._settings.silence_step),
        )  # fmt: skip
        settings = self._settings
        return build_targets(clips, settings.language, transcribe=settings.transcribe)

    def _forward_batch(self, pieces: Sequence[Window], kept: int) -> list[WindowResult]:
        """The results of windows that keep the same number of frames."""
        import torch

        from teachers.toolkit.whisper_network import encode

        step = self._settings.silence_step
        spoken = [GRID.count(len(piece.samples)) for piece in pieces]
        with device.turn(), torch.inference_mode():
            stored_BTD, states_BTD = encode(
                self._model.model.encoder, self._log_mel(pieces, kept), kept=kept,
                silence_step=step, layer=self._settings.layer,
            )  # fmt: skip
            copy = device.FramesCopy(stored_BTD, spoken, pieces, self._pool)
            transcripts = self._transcribe(states_BTD, spoken)
        return [
            WindowResult(frames_TD, *transcript)
            for frames_TD, transcript in zip(copy.arrays(), transcripts, strict=True)
        ]

    def _log_mel(self, pieces: Sequence[Window], kept: int) -> Any:
        """Computes (B, M, F): the kept frames, and some more silence if the window is not full."""
        import torch

        most = WINDOW_FRAMES * HOP
        waves = [
            np.pad(piece.samples, (0, min(MEL_TAIL, most - len(piece.samples)))) for piece in pieces
        ]
        mel_BMF = self._mel(
            waves, sampling_rate=SAMPLE_RATE, padding="longest", truncation=False,
            return_tensors="pt", device=self._device,
        ).input_features  # fmt: skip
        length = min(2 * WINDOW_FRAMES, 2 * kept + 8)
        # The log-mel of digital silence is its floor, so it does not have to be computed.
        floor_B11 = mel_BMF.amin((1, 2), keepdim=True)
        silence = floor_B11.expand(-1, mel_BMF.shape[1], max(0, length - mel_BMF.shape[2]))
        mel_BMF = torch.cat([mel_BMF, silence], 2)[:, :, :length]
        return mel_BMF.to(self._model.device, self._model.dtype)

    def _transcribe(
        self, states_BTD: Any, spoken: Sequence[int]
    ) -> list[tuple[list[dict[str, Any]], str]]:
        """Words of each window, with times in seconds from its start, and its language."""
        languages = [self._settings.language] * len(spoken)
        if self._decoder is None:
            return [([], language) for language in languages]
        sot, *rest = self._tokenizer.sot_sequence
        prompts = [[sot, *rest]] * len(spoken)
        if self._languages:
            tokens = self._decoder.language(states_BTD, sot, list(self._languages))
            prompts = [[sot, token, *rest[1:]] for token in tokens]
            languages = [self._languages[token] for token in tokens]
        words = []
        for window in self._decoder.decode(states_BTD, prompts, spoken):
            is_empty = has_no_words(window.no_speech, window.mean_log_probability)
            tokens = [] if is_empty else window.tokens
            words.append(self._timed(tokens, window.attention_NT) if tokens else [])
        return list(zip(words, languages, strict=True))

    @property
    def _languages(self) -> dict[int, str]:
        """Token -> language, if the language has to be detected."""
        if self._settings.language or not self._is_multilingual:
            return {}
        table = self._model.generation_config.lang_to_id
        return {token: name.strip("<|>") for name, token in table.items()}

    @property
    def _is_multilingual(self) -> bool:
        whole = self._model.config.vocab_size >= MULTILINGUAL_VOCABULARY
        return bool(getattr(self._model.generation_config, "is_multilingual", whole))

    def _timed(self, tokens: list[int], attention_NT: np.ndarray) -> list[dict[str, Any]]:
        words, parts = self._tokenizer.split_to_word_tokens([*tokens, self._tokenizer.eot])
        starts_N = warp(attention_NT) * HOP_S
        ends = np.cumsum([len(part) for part in parts[:-1]])
        begins = [0, *ends[:-1]]
        return [
            {"word": word, "start": float(starts_N[begin]), "end": float(starts_N[end])}
            for word, begin, end in zip(words[:-1], begins, ends, strict=True)
        ]

    def _decode_words(self) -> Any:
        """Loads faster-whisper's tokenizer, for start tokens and the beginnings of words."""
        import tokenizers
        from faster_whisper.tokenizer import Tokenizer

        path = self._checkpoint.folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{path} is missing: fetch it, or set transcribe: false")
        try:
            return Tokenizer(
                tokenizers.Tokenizer.from_file(str(path)), self._is_multilingual,
                task="transcribe", language=self._settings.language or "en",
            )  # fmt: skip
        except ValueError as error:
            raise UserError(f"teacher {self._name}: language: {error}") from None
