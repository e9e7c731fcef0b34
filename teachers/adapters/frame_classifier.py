"""Classifies frames, such as speakers, with any `AutoModelForAudioFrameClassification`.

Nemotron 3 Diarization (nvidia/Nemotron-3-Diarization: eight speakers, overlap, every 10 ms) and
wav2vec2-like models with a head per frame. Columns are speakers, in the order in which they first
speak, or named classes. Windows of a long clip are matched by the speakers in their overlap, then
cross-faded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from manifests.errors import UserError
from manifests.streams.specs import StreamSpec
from teachers.adapters.encoder import Encoder, EncoderSettings
from teachers.protocol import Targets
from teachers.toolkit import checkpoints, speakers
from teachers.toolkit.windowing import join, over_windows, pooled

# Legend: B batch, T frames, C classes or speakers.

NEMOTRON = "nemotron3_diarization"
WINDOW_S = {NEMOTRON: 3600.0}
"""Model type -> its longest window. Nemotron cuts long audio itself and keeps track of speakers."""
OTHER_WINDOW_S = 30.0
FIRST_SPEECH_S = 0.25
"""A speaker counts as having spoken if it was likely on average for this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameClassifierSettings(EncoderSettings):
    """Settings of `FrameClassifier`."""

    model: str = "nvidia/Nemotron-3-Diarization"
    """Hub id or folder of a checkpoint of `AutoModelForAudioFrameClassification`."""
    columns: Literal["", "speakers", "classes"] = ""
    """Meaning of the columns: interchangeable speakers, or classes. Empty: speakers, unless the
    checkpoint has names for them."""
    scores: Literal["sigmoid", "softmax"] = "sigmoid"
    """Conversion of logits to posteriors: independent columns, or one column at a time."""
    features: bool = False
    """Store the hidden states of `layer` in addition to the posteriors; not for Nemotron."""
    window_s: float = 0.0
    """Longest window of the model in seconds; 0 means an hour for Nemotron, else 30 s."""


class FrameClassifier(Encoder):
    """Posteriors of speakers or classes at every frame."""

    Settings = FrameClassifierSettings
    family = "frame_classifier"

    def __init__(self, name: str, settings: FrameClassifierSettings) -> None:
        super().__init__(name, settings)
        self._frame_settings = settings
        config = self._checkpoint.config
        self._is_nemotron = config.get("model_type") == NEMOTRON
        if self._is_nemotron and settings.features:
            raise UserError(
                f"teacher {name}: {settings.model} processes its audio in chunks with a memory, so "
                "its states are not the frames of a clip; set features: false"
            )
        given = config.get("id2label") or {}
        labels = [given[key] for key in sorted(given, key=int)]
        if self._is_nemotron:
            count = config.get("head_config", {}).get("num_speakers", 8)
        else:
            count = len(labels) or 2
        has_names = bool(labels) and not all(
            label.lower().startswith(("label_", "speaker")) for label in labels
        )
        self._are_speakers = settings.columns == "speakers" or (
            not settings.columns and not has_names
        )
        self._names = (
            [f"speaker {number + 1}" for number in range(count)]
            if self._are_speakers or len(labels) != count
            else labels
        )

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        if not self._are_speakers:
            return super().extract(waves)
        grid, settings = self._input.grid, self._frame_settings
        size = self._window_frames()
        overlap = min(size // 2, round(settings.overlap_s * grid.sample_rate / grid.hop))
        clips = over_windows(
            waves, grid, self._forward_batch, size=size, overlap=overlap, budget=self.budget
        )
        return [self._joined(windows) for windows in clips]

    def _joined(self, windows: Sequence[tuple[int, dict[str, np.ndarray]]]) -> Targets:
        """Joins the windows of a clip, with one column for each speaker."""
        activity = [(first, frames["posteriors"]) for first, frames in windows]
        was_active_C = activity[0][1].max(0) >= speakers.ACTIVE
        for row in range(1, len(activity)):
            (before, earlier_TC), (first, window_TC) = activity[row - 1], activity[row]
            order = speakers.matching_order(earlier_TC[first - before :], window_TC, was_active_C)
            activity[row] = (first, window_TC[:, order])
            was_active_C |= window_TC[:, order].max(0) >= speakers.ACTIVE
        frames = {"posteriors": join(activity)}
        if self._frame_settings.features:
            frames["frames"] = join([(first, each["frames"]) for first, each in windows])
        grid = self._input.grid
        rate = grid.sample_rate / grid.hop
        order = speakers.first_speech_order(
            frames["posteriors"], frames=max(1, round(FIRST_SPEECH_S * rate))
        )
        frames["posteriors"] = frames["posteriors"][:, order]
        return self._targets(frames)

    def _targets(self, frames: dict[str, np.ndarray]) -> Targets:
        """See `Encoder`."""
        grid = self._input.grid
        turns = speakers.segments(
            frames["posteriors"], self._names, start_s=grid.centre / grid.sample_rate,
            hop_s=grid.hop / grid.sample_rate,
        )  # fmt: skip
        metadata = {"speakers": turns} if self._are_speakers else {}
        stored = {name: pooled(frames_TD, self._pool) for name, frames_TD in frames.items()}
        return Targets(stored, metadata)

    def _window_frames(self) -> int:
        """See `Encoder`."""
        grid = self._input.grid
        own = WINDOW_S.get(self._checkpoint.config.get("model_type", ""), OTHER_WINDOW_S)
        seconds = self._frame_settings.window_s or own
        return self._input.longest or max(2, round(seconds * grid.sample_rate / grid.hop))

    def _streams(self) -> tuple[StreamSpec, ...]:
        is_one = self._frame_settings.scores == "softmax"
        posteriors = self._input.grid.stream(
            "posteriors", "distribution" if is_one else "multilabel", len(self._names), "uint8",
            pool=self._pool, names=self._names,
        )  # fmt: skip
        return (posteriors, self._features()) if self._frame_settings.features else (posteriors,)

    def _loaded(self, *, device: str, num_threads: int) -> Any:
        checkpoints.offline()
        from transformers import AutoModelForAudioFrameClassification

        model = checkpoints.load(
            AutoModelForAudioFrameClassification, self._checkpoint, self._settings, device=device,
            num_threads=num_threads, trust_remote_code=self._settings.trust_remote_code,
        )  # fmt: skip
        if self._is_nemotron:
            _guard_padding(model)
        return model

    def _forward(self, prepared: dict[str, Any]) -> dict[str, Any]:
        options = {"output_hidden_states": True} if self._frame_settings.features else {}
        output = self._model(**prepared, **options)
        logits_BTC = output.logits.float()
        is_one = self._frame_settings.scores == "softmax"
        streams = {"posteriors": logits_BTC.softmax(-1) if is_one else logits_BTC.sigmoid()}
        if self._frame_settings.features:
            streams["frames"] = self._input.frames(output.hidden_states[self._settings.layer])
        return streams


def _guard_padding(model: Any) -> None:
    """Replaces states of padding by zeros before the convolution that upsamples Nemotron's states.

    A padded clip then gives the same frames as a clip alone. A clip alone ends with the state of
    its last, incomplete group of mel frames; if its mel frames fill whole groups, the extractor's
    additional frame makes one more state.
    """
    import torch

    network, factor = model.model, model.config.audio_config.subsampling_factor
    ends: list[Any] = []

    def remember_lengths(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        mask_BF = kwargs.get("attention_mask")
        extra_B = None if mask_BF is None else (mask_BF.sum(1) % factor == 0).long()
        ends[:] = [extra_B]

    def remember_step(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        mask_BS = kwargs.get("attention_mask")
        ends[1:] = [None if mask_BS is None else mask_BS.sum(1)]

    def zero_padding(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        extra_B, valid_B = ends
        if extra_B is None or valid_B is None:
            return None
        (states_BCS,) = inputs
        place_S = torch.arange(states_BCS.shape[2], device=states_BCS.device)
        kept_BS = place_S < (valid_B + extra_B)[:, None]
        return (states_BCS * kept_BS[:, None].to(states_BCS.dtype),)

    model.register_forward_pre_hook(remember_lengths, with_kwargs=True)
    network.register_forward_pre_hook(remember_step, with_kwargs=True)
    network.upsampler.conv.register_forward_pre_hook(zero_padding)
