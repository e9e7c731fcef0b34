"""Classifies audio with any `AutoModelForAudioClassification` checkpoint.

Such models make one prediction for a whole clip. Here they run on sliding windows. The posteriors
are a stream with one frame per window; the hidden states of the same passes, cross-faded, are a
stream at the model's own rate. Supported are AST on AudioSet, wav2vec2, HuBERT and WavLM with a
classification head (emotion, language, keywords), and Whisper encoders with one.

`AudEERING` is the regression head of audEERING's wav2vec2 (Wagner et al., TPAMI 2023, arXiv
2203.07378): arousal, dominance and valence, each about [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from manifests.errors import UserError
from manifests.streams.specs import StreamSpec
from teachers.adapters.encoder import Encoder, EncoderSettings
from teachers.library_internals import frame_mask
from teachers.protocol import Targets
from teachers.toolkit import checkpoints
from teachers.toolkit.frame_grid import num_frames
from teachers.toolkit.windowing import Window, join, pooled

# Legend: B batch, T frames, D columns, C classes, W windows.

WINDOW_S = 4.0
"""Window in seconds of models that accept any length."""
MANY = 64
"""With at least this many classes, only the strongest ones of each frame are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioClassifierSettings(EncoderSettings):
    """Settings of `AudioClassifier`."""

    window_s: float = 0.0
    """Length of a window; 0 means the model's own (AST 10.24 s, Whisper 30 s), else 4 s."""
    step_s: float = 1.0
    """Seconds from one window to the next."""
    scores: Literal["", "softmax", "sigmoid"] = ""
    """Conversion of logits to posteriors: softmax (one class at a time) or sigmoid (independent
    classes, as in AudioSet). Empty: determined by the checkpoint's problem_type, softmax if it
    states none."""
    features: bool = True
    """Store the hidden states of `layer` in addition to the posteriors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudEERINGSettings(AudioClassifierSettings):
    """Settings of `AudEERING`."""

    model: str = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
    """Hub id or folder."""


class AudioClassifier(Encoder):
    """Class posteriors over sliding windows, and the hidden states of one layer."""

    Settings = AudioClassifierSettings
    family = "audio_classifier"

    def __init__(self, name: str, settings: AudioClassifierSettings) -> None:
        super().__init__(name, settings)
        self._sliding = settings
        grid, longest = self._input.grid, self._input.longest
        most = grid.samples(longest) if longest else 0
        self._window = round(settings.window_s * grid.sample_rate) or most or round(
            WINDOW_S * grid.sample_rate)  # fmt: skip
        # Windows begin on frames, so that their states share one grid.
        self._step = max(1, round(settings.step_s * grid.sample_rate / grid.hop))
        if most and self._window > most:
            raise UserError(
                f"teacher {name}: window_s must be at most {most / grid.sample_rate:g} for "
                f"{self._checkpoint.model}; found {settings.window_s:g}"
            )
        if self._window < 2 * grid.field:
            least = 2 * grid.field / grid.sample_rate
            raise UserError(
                f"teacher {name}: window_s must be at least {least:g}; found {settings.window_s:g}"
            )
        if settings.step_s <= 0 or self._step * grid.hop > self._window:
            raise UserError(
                f"teacher {name}: step_s must be in (0, window_s]; found {settings.step_s:g}"
            )

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        grid = self._input.grid
        pieces = [piece for clip, wave in enumerate(waves) for piece in self._cut(clip, wave)]
        results = self.budget.run(
            [len(piece.samples) for piece in pieces],
            lambda batch: self._forward_batch([pieces[place].samples for place in batch]),
            per_second=grid.sample_rate,
        )
        targets = []
        for clip in range(len(waves)):
            own = [place for place, piece in enumerate(pieces) if piece.clip == clip]
            frames = {
                self._scored.name: np.concatenate([results[place]["scores"] for place in own])
            }
            if self._sliding.features:
                joined_TD = join([(pieces[place].first, results[place]["frames"]) for place in own])
                frames["frames"] = pooled(joined_TD, self._pool)
            targets.append(Targets(frames))
        return targets

    def _cut(self, clip: int, wave: np.ndarray) -> list[Window]:
        """Cuts windows whose middle lies within the clip; the last ones end with the clip. At least
        one."""
        grid = self._input.grid
        hop = self._step * grid.hop
        count = num_frames(
            len(wave), grid.sample_rate, start_s=self._window / 2 / grid.sample_rate,
            hop_s=hop / grid.sample_rate,
        )  # fmt: skip
        wave = np.pad(wave.astype(np.float32, copy=False), (0, max(0, grid.field - len(wave))))
        return [
            Window(
                clip,
                place * self._step,
                wave[place * hop : place * hop + self._window],
                is_whole=count == 1,
            )
            for place in range(count)
        ]

    @property
    def _scored(self) -> StreamSpec:
        """The stream of posteriors."""
        config = self._checkpoint.config
        names = {int(place): label for place, label in config.get("id2label", {}).items()}
        if not names:
            raise UserError(f"{self._checkpoint.model} names no classes (id2label)")
        multilabel = self._sigmoid()
        return StreamSpec(
            name="posteriors", kind="multilabel" if multilabel else "distribution",
            dim=len(names), names=tuple(names[place] for place in sorted(names)),
            codec="topk16" if len(names) > MANY and multilabel else "uint8",
            **self._timing(),
        )  # fmt: skip

    def _timing(self) -> dict[str, Any]:
        grid = self._input.grid
        return {
            "start_s": self._window / 2 / grid.sample_rate,
            "hop_s": self._step * grid.hop / grid.sample_rate,
            "window_s": self._window / grid.sample_rate,
        }

    def _sigmoid(self) -> bool:
        stated = self._checkpoint.config.get("problem_type") == "multi_label_classification"
        return stated if not self._sliding.scores else self._sliding.scores == "sigmoid"

    def _streams(self) -> tuple[StreamSpec, ...]:
        return (self._scored, self._features()) if self._sliding.features else (self._scored,)

    def _loaded(self, *, device: str, num_threads: int) -> Any:
        checkpoints.offline()
        from transformers import AutoModelForAudioClassification

        return checkpoints.load(
            AutoModelForAudioClassification, self._checkpoint, self._settings, device=device,
            num_threads=num_threads, trust_remote_code=self._settings.trust_remote_code,
        )  # fmt: skip

    def _forward(self, prepared: dict[str, Any]) -> dict[str, Any]:
        output = self._model(**prepared, output_hidden_states=True)
        logits_BC = output.logits.float()
        scores_BC = logits_BC.sigmoid() if self._sigmoid() else logits_BC.softmax(-1)
        states_BSD = output.hidden_states[self._settings.layer]
        return {"frames": self._input.frames(states_BSD), "scores": scores_BC[:, None]}


class AudEERING(AudioClassifier):
    """Arousal, dominance and valence over sliding windows."""

    Settings = AudEERINGSettings
    family = "audeering"

    @property
    def _scored(self) -> StreamSpec:
        names = ("arousal", "dominance", "valence")
        return StreamSpec(
            name="dimensions", kind="features", dim=3, names=names, codec="fp16", **self._timing()
        )

    def _loaded(self, *, device: str, num_threads: int) -> Any:
        checkpoints.offline()
        return checkpoints.load(
            emotion_model(), self._checkpoint, self._settings, device=device,
            num_threads=num_threads,
        )  # fmt: skip

    def _forward(self, prepared: dict[str, Any]) -> dict[str, Any]:
        states_BSD, outputs = self._model(**prepared, layer=self._settings.layer)
        return {"frames": states_BSD, "scores": outputs[:, None]}


def emotion_model() -> Any:
    """The class of audEERING's checkpoint: wav2vec2, mean over time, two linear layers."""
    import torch
    from torch import nn
    from transformers import Wav2Vec2Model, Wav2Vec2PreTrainedModel

    class Head(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.dense = nn.Linear(config.hidden_size, config.hidden_size)
            self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

        def forward(self, pooled_BD: torch.Tensor) -> torch.Tensor:
            return self.out_proj(torch.tanh(self.dense(pooled_BD)))

    class EmotionModel(Wav2Vec2PreTrainedModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.wav2vec2 = Wav2Vec2Model(config)
            self.classifier = Head(config)
            self.post_init()

        def forward(
            self,
            input_values: torch.Tensor,
            attention_mask: torch.Tensor | None = None,
            layer: int = -1,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            output = self.wav2vec2(input_values, attention_mask, output_hidden_states=True)
            last_BTD = output.last_hidden_state
            if attention_mask is None:
                pooled_BD = last_BTD.mean(1)
            else:
                kept_BT = frame_mask(self, last_BTD.shape[1], attention_mask)
                kept_BT1 = kept_BT[:, :, None].to(last_BTD.dtype)
                pooled_BD = (last_BTD * kept_BT1).sum(1) / kept_BT1.sum(1)
            return output.hidden_states[layer], self.classifier(pooled_BD)

    return EmotionModel
