"""Recognises phones, characters or word pieces with a CTC model, and writes words with times.

Any checkpoint of `AutoModelForCTC`: characters (facebook/wav2vec2-base-960h) and phones of many
languages (facebook/wav2vec2-lv-60-espeak-cv-ft) every 20 ms, Parakeet's pieces of words (nvidia/
parakeet-ctc-1.1b) every 80 ms. The columns of the posteriors are the vocabulary, including the
blank. The metadata contains the words of the best path or, with `align`, those of the clip's known
text, each with its times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.streams.specs import StreamSpec
from teachers.adapters.encoder import Encoder, EncoderSettings
from teachers.protocol import Targets
from teachers.toolkit import checkpoints
from teachers.toolkit.ctc_paths import Vocabulary, best_path, spell, timed
from teachers.toolkit.front_ends import LogMel

# Legend: T frames, V entries of the vocabulary.

MANY = 64
"""With at least this many entries, a log-mel model's stream stores only the strongest ones."""
DEFAULTS: dict[str, dict[str, int]] = {
    "parakeet_ctc": {"vocab_size": 1025, "pad_token_id": 1024},
    "lasr_ctc": {"vocab_size": 512, "pad_token_id": 0},
}
"""Model type -> default values that its configuration leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CTCSettings(EncoderSettings):
    """Settings of `CTC`."""

    model: str = "facebook/wav2vec2-lv-60-espeak-cv-ft"
    """Hub id or folder of a CTC checkpoint."""
    features: bool = False
    """Store the hidden states of `layer` in addition to the posteriors."""
    align: bool = False
    """If a clip's text is known, write its words with times (forced alignment) instead of the best
    path. For models with characters or word pieces."""

    def recorded(self) -> dict[str, Any]:
        """See `HubSettings`; `align` changes no frame and is left out while it is off."""
        fields = super(CTCSettings, self).recorded()
        if not self.align:
            del fields["align"]
        return fields


class CTC(Encoder):
    """Posteriors over phones, characters or word pieces, and the words decoded from them."""

    Settings = CTCSettings
    family = "ctc"

    def __init__(self, name: str, settings: CTCSettings) -> None:
        super().__init__(name, settings)
        self._ctc = settings
        self._tokenizer: Any = None
        config = self._checkpoint.config
        defaults = DEFAULTS.get(config.get("model_type", ""), {})
        size = config.get("vocab_size", defaults.get("vocab_size", 32))
        blank = config.get("pad_token_id", defaults.get("pad_token_id", 0))
        self._vocabulary = Vocabulary(self._names(size), blank)
        if settings.align and not (self._vocabulary.is_characters or self._vocabulary.is_pieces):
            raise UserError(
                f"teacher {name}: {settings.model} has phones; align needs a model of characters "
                "or pieces of words, such as facebook/wav2vec2-base-960h"
            )

    def extract_with_texts(
        self, waves: Sequence[np.ndarray], texts: Sequence[str | None]
    ) -> list[Targets]:
        """See `teachers.protocol.TextTeacher`."""
        clips = self._native_frames(waves)
        return [
            self._aligned(frames, text)
            if self._ctc.align and text and text.strip()
            else self._targets(frames)
            for frames, text in zip(clips, texts, strict=True)
        ]

    def _streams(self) -> tuple[StreamSpec, ...]:
        names = self._vocabulary.names
        is_sparse = isinstance(self._input, LogMel) and len(names) > MANY
        posteriors = self._input.grid.stream(
            "posteriors", "distribution", len(names), "topk16" if is_sparse else "uint8",
            pool=self._pool, names=names,
        )  # fmt: skip
        return (posteriors, self._features()) if self._ctc.features else (posteriors,)

    def _names(self, size: int) -> list[str]:
        names = [f"token {column}" for column in range(size)]
        for token, column in self._entries().items():
            if isinstance(column, int) and column < size:
                names[column] = token
        return names

    def _entries(self) -> dict[str, int]:
        """Reads the column of each token from `vocab.json`, else from `tokenizer.json`."""
        if entries := self._checkpoint.read("vocab.json"):
            return entries
        whole = self._checkpoint.read("tokenizer.json")
        entries = whole.get("model", {}).get("vocab", {})
        if isinstance(entries, list):
            entries = {token: column for column, (token, *_) in enumerate(entries)}
        added = {each["content"]: each["id"] for each in whole.get("added_tokens", [])}
        return {**entries, **added}

    def _loaded(self, *, device: str, num_threads: int) -> Any:
        checkpoints.offline()
        from transformers import AutoModelForCTC

        return checkpoints.load(
            AutoModelForCTC, self._checkpoint, self._settings, device=device,
            num_threads=num_threads, trust_remote_code=self._settings.trust_remote_code,
        )  # fmt: skip

    def _forward(self, prepared: dict[str, Any]) -> dict[str, Any]:
        output = self._model(**prepared, output_hidden_states=self._ctc.features)
        streams = {"posteriors": output.logits.float().softmax(-1)}
        if self._ctc.features:
            streams["frames"] = self._input.frames(output.hidden_states[self._settings.layer])
        return streams

    def _targets(self, frames: dict[str, np.ndarray]) -> Targets:
        targets = super()._targets(frames)
        path = best_path(frames["posteriors"], self._vocabulary.blank)
        words = self._vocabulary.words(path, **self._times())
        return Targets(
            targets.frames, {"text": " ".join(word.text for word in words), "words": words}
        )

    def _aligned(self, frames: dict[str, np.ndarray], text: str) -> Targets:
        """A clip's frames, and the times of the words of its text."""
        targets = self._targets(frames)
        spelled = spell(text, self._vocabulary, self._pieces)
        alignment = spelled.align(frames["posteriors"], self._vocabulary.blank)
        if alignment is None:
            return targets
        words = timed(spelled.words, alignment.spans, **self._times())
        metadata = {"text": text, "words": words, "alignment": round(alignment.score, 3)}
        return Targets(targets.frames, metadata)

    def _times(self) -> dict[str, float]:
        grid = self._input.grid
        return {"start_s": grid.centre / grid.sample_rate, "hop_s": grid.hop / grid.sample_rate}

    def _pieces(self, word: str) -> list[int]:
        """A word in the pieces of the checkpoint's tokenizer."""
        if self._tokenizer is None:
            import tokenizers

            path = self._checkpoint.folder / "tokenizer.json"
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        return self._tokenizer.encode(word, add_special_tokens=False).ids
