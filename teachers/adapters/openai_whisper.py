"""ASR with OpenAI's own `.pt` checkpoints and the openai-whisper package (an optional extra).

This family is for teams that keep the original files. The checkpoint is read by torch's
`weights_only` unpickler into the package's network. Frames, batched greedy decoding and word times
come from the package, with one encoder pass for all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.packaged_weights import sha256
from manifests.streams.specs import TeacherSpec
from teachers.library_internals import alignment_heads
from teachers.protocol import Targets
from teachers.toolkit import device
from teachers.toolkit.checkpoints import HubSettings
from teachers.toolkit.whisper_windows import (
    GRID,
    SAMPLE_RATE,
    WindowResult,
    build_targets,
    has_no_words,
    over_windows,
)
from teachers.toolkit.windowing import Window

# Legend: B batch, T frames of 20 ms, D width.


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIWhisperSettings(HubSettings):
    """Settings of `OpenAIWhisper`."""

    model: str = ""
    """Path of a `.pt` file."""
    language: str = "en"
    """Language of a multilingual model's transcripts."""
    transcribe: bool = True
    """Write a transcript with word times in addition to the frames."""


class OpenAIWhisper:
    """Encoder frames every 20 ms, and a transcript."""

    Settings = OpenAIWhisperSettings

    def __init__(self, name: str, settings: OpenAIWhisperSettings) -> None:
        self._name = name
        self._settings = settings
        self._path = Path(settings.model).expanduser()
        if self._path.suffix != ".pt" or not self._path.is_file():
            raise UserError(
                f"teacher {name}: model must be a .pt file of OpenAI's Whisper; "
                f"found {settings.model or 'nothing'}"
            )
        self._pool = GRID.pool(settings.frame_rate)
        self._device = "cpu"
        self.budget = settings.budget("cpu")
        self._model: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        width = self._read(only_header=True)["dims"]["n_audio_state"]
        return TeacherSpec(
            name=self._name,
            family="openai_whisper",
            revision=2,
            settings=self._settings.recorded(),
            weights={self._path.name: sha256(self._path)},
            sample_rate=SAMPLE_RATE,
            streams=(GRID.stream("encoder", "features", width, "int8", pool=self._pool),),
            license=self._settings.license or "MIT",
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        try:
            import whisper
        except ModuleNotFoundError:
            raise UserError(
                f"teacher {self._name} needs openai-whisper; "
                "run: pip install -e '.[openai-whisper]'"
            ) from None
        import torch

        torch.set_num_threads(num_threads)
        self._device = device
        self.budget = self._settings.budget(device)
        checkpoint = self._read(only_header=False)
        model = whisper.model.Whisper(whisper.model.ModelDimensions(**checkpoint["dims"]))
        model.load_state_dict(checkpoint["model_state_dict"])
        # The package identifies each published checkpoint by its digest, a part of its address.
        heads = alignment_heads(self._path.stem, sha256(self._path))
        if heads is not None:
            model.set_alignment_heads(heads)
        self._model = model.eval().to(device, getattr(torch, self._settings.dtype))

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        settings = self._settings
        clips = over_windows(waves, self._forward_batch, budget=self.budget, pool=self._pool)
        return build_targets(clips, settings.language, transcribe=settings.transcribe)

    def _read(self, *, only_header: bool) -> dict[str, Any]:
        import pickle

        import torch

        try:
            checkpoint = torch.load(
                self._path,
                map_location="cpu",
                weights_only=True,
                mmap=True if only_header else None,
            )
        except (pickle.UnpicklingError, RuntimeError) as error:
            raise UserError(
                f"{self._path} cannot be read as tensors alone: {str(error).splitlines()[0]}"
            ) from None
        if not {"dims", "model_state_dict"} <= set(checkpoint):
            raise UserError(f"{self._path} is not a Whisper checkpoint of OpenAI")
        return checkpoint

    def _forward_batch(self, pieces: Sequence[Window], _: int) -> list[WindowResult]:
        import torch
        from whisper.audio import log_mel_spectrogram, pad_or_trim

        spoken = [GRID.count(len(piece.samples)) for piece in pieces]
        dtype = next(self._model.parameters()).dtype
        with torch.inference_mode():
            waves = torch.from_numpy(np.stack([pad_or_trim(piece.samples) for piece in pieces]))
            mels = [
                log_mel_spectrogram(wave, self._model.dims.n_mels, device=self._device)
                for wave in waves
            ]
            mel_BMF = torch.stack(mels).to(dtype)
            states_BTD = self._model.encoder(mel_BMF)
            copy = device.FramesCopy(states_BTD, spoken, pieces, self._pool)
            words: list[list[dict[str, Any]]] = [[] for _ in pieces]
            if self._settings.transcribe:
                words = self._words(states_BTD, mel_BMF, spoken)
        return [
            WindowResult(frames_TD, words[row], self._settings.language)
            for row, frames_TD in enumerate(copy.arrays())
        ]

    def _words(
        self, states_BTD: Any, mel_BMF: Any, spoken: Sequence[int]
    ) -> list[list[dict[str, Any]]]:
        """Words of each window, with times in seconds from its start."""
        import torch
        from whisper import DecodingOptions
        from whisper.timing import find_alignment
        from whisper.tokenizer import get_tokenizer

        model, language = self._model, self._settings.language
        options = DecodingOptions(language=language, fp16=states_BTD.dtype == torch.float16)
        tokenizer = get_tokenizer(
            model.is_multilingual, num_languages=model.num_languages, language=language,
            task="transcribe",
        )  # fmt: skip
        words = []
        for row, result in enumerate(model.decode(states_BTD, options)):
            tokens = [token for token in result.tokens if token < tokenizer.eot]
            if not tokens or has_no_words(result.no_speech_prob, result.avg_logprob):
                words.append([])
                continue
            encoded: Any = _Encoded(model, states_BTD[row])
            timed = find_alignment(encoded, tokenizer, tokens, mel_BMF[row], 2 * spoken[row])
            words.append([{"word": w.word, "start": w.start, "end": w.end} for w in timed])
        return words


class _Encoded:
    """The model for `find_alignment`, with a precomputed encoder output."""

    def __init__(self, model: Any, states_TD: Any) -> None:
        self._model, self._states_TD = model, states_TD

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, mel: Any, tokens: Any) -> Any:
        return self._model.decoder(tokens, self._states_TD[None])
