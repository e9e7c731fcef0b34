"""Phones and characters: posteriors of a CTC model (wav2vec2, HuBERT, WavLM, ...) every 20 ms.

Any checkpoint of `AutoModelForCTC` that hears waveforms: characters (facebook/wav2vec2-base-960h),
phones of many languages (facebook/wav2vec2-lv-60-espeak-cv-ft). The columns are the vocabulary, the
blank among them; the best path is written down as text beside the frames.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.streams.specs import StreamSpec
from teachers.adapters.encoder import Encoder, EncoderSettings
from teachers.protocol import Targets
from teachers.toolkit import checkpoints

# Legend: T frames, V entries of the vocabulary.

WORD_GAP = "|"


@dataclass(frozen=True, slots=True, kw_only=True)
class CTCSettings(EncoderSettings):
    """Settings of `CTC`."""

    model: str = "facebook/wav2vec2-lv-60-espeak-cv-ft"
    """Hub id or folder of a CTC checkpoint."""
    features: bool = False
    """Store the hidden states of `layer` beside the posteriors."""


class CTC(Encoder):
    """Posteriors over phones or characters, and what they spell."""

    Settings = CTCSettings
    family = "ctc"

    def _streams(self) -> tuple[StreamSpec, ...]:
        names = self._names()
        posteriors = self._input.grid.stream(
            "posteriors", "distribution", len(names), "uint8", pool=self._pool, names=names
        )
        return (posteriors, self._features()) if self._wants_features else (posteriors,)

    @property
    def _wants_features(self) -> bool:
        return self._settings.features  # pyright: ignore[reportAttributeAccessIssue]

    def _names(self) -> list[str]:
        size = self._checkpoint.config.get("vocab_size", 32)
        names = [f"token {at}" for at in range(size)]
        for token, at in self._checkpoint.read("vocab.json").items():
            if isinstance(at, int) and at < size:
                names[at] = token
        return names

    def _loaded(self, *, device: str, num_threads: int) -> Any:
        checkpoints.offline()
        from transformers import AutoModelForCTC

        return checkpoints.load(
            AutoModelForCTC, self._checkpoint, self._settings, device=device,
            num_threads=num_threads, trust_remote_code=self._settings.trust_remote_code,
        )  # fmt: skip

    def _forward(self, prepared: dict[str, Any]) -> dict[str, Any]:
        output = self._model(**prepared, output_hidden_states=self._wants_features)
        found = {"posteriors": output.logits.float().softmax(-1)}
        if self._wants_features:
            found["frames"] = self._input.frames(output.hidden_states[self._settings.layer])
        return found

    def _targets(self, frames: dict[str, np.ndarray]) -> Targets:
        targets = super()._targets(frames)
        return Targets(targets.frames, {"text": self._spelled(frames["posteriors"])})

    def _spelled(self, posteriors_TV: np.ndarray) -> str:
        """Best path without repeats and blanks; phones are set apart, characters by word gaps."""
        names, blank = self._names(), self._checkpoint.config.get("pad_token_id", 0)
        path = [int(at) for at, _ in itertools.groupby(posteriors_TV.argmax(1))]
        units = [names[at] for at in path if at != blank and not names[at].startswith("<")]
        if WORD_GAP in names and all(len(name) == 1 for name in names if name[0] != "<"):
            return " ".join("".join(units).replace(WORD_GAP, " ").split())
        return " ".join(unit for unit in units if unit != WORD_GAP)
