"""Extracts features of any layer of any audio encoder in transformers: `transformers:MODEL_ID`.

wav2vec2, HuBERT, WavLM, data2vec, UniSpeech, SEW, AST and Whisper encoders state their frame grid
in their configuration. For any other encoder, set `hop_s`, which is checked when the model is
loaded. `mert` does the same for MERT (Li et al., ICLR 2024, arXiv 2306.00107), whose published 95M
checkpoint is a HuBERT at 24 kHz and is loaded as one, so that no code from the hub is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers.protocol import Targets
from teachers.settings import NonNegative
from teachers.toolkit import checkpoints, device, front_ends
from teachers.toolkit.checkpoints import HubSettings
from teachers.toolkit.windowing import over_clips, pooled

# Legend: B batch, T frames, D columns.


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings(HubSettings):
    """Settings of `Encoder`."""

    layer: int = -1
    """Index of the hidden state as in transformers: 0 is the input of the first layer, -1 the last
    state."""
    window_s: NonNegative = 30.0
    """Longest window in seconds, for models that set no limit themselves."""
    overlap_s: NonNegative = 5.0
    """Overlap of the windows of a longer clip, in which they are cross-faded."""
    hop_s: NonNegative = 0.0
    """Seconds between frames, for models whose configuration does not state it."""
    trust_remote_code: bool = False
    """Run the Python code of the checkpoint. Read it first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MERTSettings(EncoderSettings):
    """Settings of `MERT`."""

    model: str = "m-a-p/MERT-v1-95M"
    """Hub id or folder of a MERT checkpoint."""
    layer: int = 7
    """The middle layers are best for most music tasks (MERT's model card)."""
    window_s: float = 20.0
    """MERT was trained on 5 s and is used on windows up to tens of seconds."""


class Encoder:
    """Hidden states of one layer."""

    Settings = EncoderSettings
    overlaps = True
    family = "encoder"

    def __init__(self, name: str, settings: EncoderSettings) -> None:
        self._name = name
        self._settings = settings
        self._checkpoint = checkpoints.find(settings)
        self._input = front_ends.from_checkpoint(self._checkpoint, hop_s=settings.hop_s)
        self._pool = self._input.grid.pool(settings.frame_rate)
        self._model: Any = None
        self.budget = settings.budget("cpu")

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        return TeacherSpec(
            name=self._name,
            family=self.family,
            revision=1,
            settings=self._settings.recorded(),
            weights=self._checkpoint.digests(),
            sample_rate=self._input.grid.sample_rate,
            streams=self._streams(),
            license=self._checkpoint.license(self._settings.license),
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        model = self._loaded(device=device, num_threads=num_threads)
        is_whole = getattr(model.config, "is_encoder_decoder", False)
        self._model = model.get_encoder() if is_whole else model
        self.budget = self._settings.budget(device)
        self._input.attach(self._model)
        self._probe()

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        return [self._targets(frames) for frames in self._native_frames(waves)]

    def _native_frames(self, waves: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Computes the frames of each whole clip at the model's own rate, by stream."""
        settings, grid = self._settings, self._input.grid
        rate = grid.sample_rate / grid.hop
        size = self._window_frames()
        overlap = min(size // 2, round(settings.overlap_s * rate))
        return over_clips(
            waves, grid, self._forward_batch, size=size, overlap=overlap, budget=self.budget
        )

    def _window_frames(self) -> int:
        """Frames of the longest window."""
        grid = self._input.grid
        seconds = self._settings.window_s
        return self._input.longest or max(2, round(seconds * grid.sample_rate / grid.hop))

    def _streams(self) -> tuple[StreamSpec, ...]:
        return (self._features(),)

    def _features(self) -> StreamSpec:
        config = self._checkpoint.config
        width = (
            self._input.width or config.get("hidden_size") or config.get("d_model")
            or config.get("encoder_dim")
        )  # fmt: skip
        if not width:
            raise UserError(f"{self._checkpoint.model}: its configuration states no hidden_size")
        return self._input.grid.stream("frames", "features", width, "int8", pool=self._pool)

    def _targets(self, frames: dict[str, np.ndarray]) -> Targets:
        """The targets to store, from the native frames of a whole clip."""
        return Targets({name: pooled(each_TD, self._pool) for name, each_TD in frames.items()})

    def _loaded(self, *, device: str, num_threads: int) -> Any:
        checkpoints.offline()
        from transformers import AutoModel

        return checkpoints.load(
            AutoModel, self._checkpoint, self._settings, device=device, num_threads=num_threads,
            trust_remote_code=self._settings.trust_remote_code,
        )  # fmt: skip

    def _forward_batch(self, waves: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Computes native frames of each waveform of a batch, by stream."""
        import torch

        batch = self._input.prepare(waves)
        with device.turn(), torch.inference_mode():
            outputs = self._run(batch)
            copies = {name: device.HostCopy(each_BTD.float()) for name, each_BTD in outputs.items()}
        frames = {name: copy.array() for name, copy in copies.items()}
        counts = {name: self._input.counts(batch, each_BTD.shape[1])
                  for name, each_BTD in frames.items()}  # fmt: skip
        return [
            {name: each_BTD[row, : counts[name][row]] for name, each_BTD in frames.items()}
            for row in range(len(waves))
        ]

    def _run(self, batch: front_ends.Batch) -> dict[str, Any]:
        """Computes (B, T, D) of a prepared batch on the model's device, by stream."""
        self._input.enter(batch)
        return self._forward(checkpoints.moved(batch.inputs, self._model))

    def _forward(self, prepared: dict[str, Any]) -> dict[str, Any]:
        """Computes (B, T, D), by stream."""
        output = self._model(**prepared, output_hidden_states=True)
        return {"frames": self._input.frames(output.hidden_states[self._settings.layer])}

    def _probe(self) -> None:
        """Checks with two seconds of noise that the layer exists and the number of frames fits the
        grid."""
        import torch

        rate = self._input.grid.sample_rate
        noise = np.random.default_rng(0).normal(scale=0.01, size=2 * rate).astype(np.float32)
        batch = self._input.prepare([noise])
        try:
            with torch.inference_mode():
                states = next(iter(self._run(batch).values()))
        except IndexError:
            raise UserError(
                f"teacher {self._name}: {self._checkpoint.model} has no layer "
                f"{self._settings.layer}"
            ) from None
        actual, expected = states.shape[1], self._input.count(len(noise))
        if self._input.longest:
            expected = self._input.longest
        if abs(actual - expected) > 1:
            raise UserError(
                f"teacher {self._name}: 2 s give {actual} frames where hop_s "
                f"{self._settings.hop_s} means {expected}; set hop_s to {2 / actual:g}"
            )


class MERT(Encoder):
    """MERT's hidden states, 75 per second."""

    Settings = MERTSettings
    family = "mert"

    def _loaded(self, *, device: str, num_threads: int) -> Any:
        settings, config = self._settings, self._checkpoint.config
        if settings.trust_remote_code:
            return super()._loaded(device=device, num_threads=num_threads)
        own = [key for key in ("feature_extractor_cqt", "deepnorm") if config.get(key)]
        if own or config.get("attention_relax", -1) > 0:
            raise UserError(
                f"{self._checkpoint.model} is not a plain HuBERT (its configuration sets "
                f"{', '.join(own) or 'attention_relax'}) and needs its own code; read that, then "
                "set trust_remote_code: true"
            )
        checkpoints.offline()
        from transformers import HubertConfig, HubertModel

        known = {
            key: value for key, value in config.items() if key not in ("auto_map", "model_type")
        }
        return checkpoints.load(
            HubertModel, self._checkpoint, settings, device=device, num_threads=num_threads,
            config=HubertConfig(**known),
        )  # fmt: skip
