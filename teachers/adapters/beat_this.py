"""Beats and downbeats: Beat This! (Foscarin, Schlüter and Widmer, ISMIR 2024, arXiv 2407.21658).

The streams are posteriors of beats and downbeats at 50 frames per second and, optionally, the
hidden states before them. The network is a port (`teachers.toolkit.beat_this_network`); the weights
are a checkpoint published by the authors (`final0.ckpt` and others; MIT). The log-mel spectrogram
equals torchaudio's and needs only torch: 1024 samples every 441 at 22,050 Hz, 128 bands from 30 to
11,000 Hz. As in the authors' code, 6 frames of zeros are added at either end of a clip, because the
training loss excluded the ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.packaged_weights import sha256
from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers.protocol import Targets
from teachers.toolkit import device as devices
from teachers.toolkit.checkpoints import HubSettings
from teachers.toolkit.mel_bands import mel_bands
from teachers.toolkit.windowing import Grid, over_clips, pooled

# Legend: B batch, L samples, T frames, W samples of a frame, F frequency bins or mel bands,
# M mel bands, D columns.

SAMPLE_RATE, HOP, WINDOW, BANDS = 22_050, 441, 1024, 128
LOWEST_HZ, HIGHEST_HZ = 30.0, 11_000.0
LOG_FACTOR = 1000.0
BORDER = 6
WINDOW_FRAMES, OVERLAP_FRAMES = 1488, 250
"""The authors cut clips into windows of 1500 frames including borders."""
PEAK_REACH = 3
"""A beat is the highest frame within 60 ms on either side."""
GRID = Grid(sample_rate=SAMPLE_RATE, hop=HOP, field=1, centre=0.0, window=WINDOW)
HYPER = ("spect_dim", "transformer_dim", "ff_mult", "n_layers", "head_dim", "stem_dim", "sum_head",
         "partial_transformers")  # fmt: skip
"""Hyperparameters that the checkpoint states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatThisSettings(HubSettings):
    """Settings of `BeatThis`."""

    model: str = ""
    """Path of a `.ckpt` file that the authors of Beat This! publish."""
    features: bool = False
    """Store the transformer's last states in addition to the posteriors."""


class BeatThis:
    """Posteriors of beats and downbeats, and their times."""

    Settings = BeatThisSettings
    overlaps = True

    def __init__(self, name: str, settings: BeatThisSettings) -> None:
        self._name = name
        self._settings = settings
        self._path = Path(settings.model).expanduser()
        if self._path.suffix != ".ckpt" or not self._path.is_file():
            raise UserError(
                f"teacher {name}: model must be a .ckpt file of Beat This! (see "
                f"github.com/CPJKU/beat_this); found {settings.model or 'nothing'}"
            )
        self._pool = GRID.pool(settings.frame_rate)
        self.budget = settings.budget("cpu")
        self._network: Any = None
        self._dtype: Any = None
        self._device = "cpu"

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        return TeacherSpec(
            name=self._name,
            family="beat_this",
            revision=1,
            settings=self._settings.recorded(),
            weights={self._path.name: sha256(self._path)},
            sample_rate=SAMPLE_RATE,
            streams=self._streams(),
            license=self._settings.license or "MIT",
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        import torch

        from teachers.toolkit import beat_this_network

        torch.set_num_threads(num_threads)
        hyper, state = self._read()
        network = beat_this_network.BeatThis(**hyper)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{self._path} is not a checkpoint of Beat This!: {reason}") from None
        self._device = device
        self._dtype = getattr(torch, self._settings.dtype)
        self._network = network.eval().to(device, self._dtype)
        self.budget = self._settings.budget(device)

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        clips = over_clips(
            waves, GRID, self._forward_batch, size=WINDOW_FRAMES, overlap=OVERLAP_FRAMES,
            budget=self.budget,
        )  # fmt: skip
        return [
            Targets(
                {name: pooled(frames_TD, self._pool) for name, frames_TD in frames.items()},
                beat_times(frames["posteriors"]),
            )
            for frames in clips
        ]

    def _streams(self) -> tuple[StreamSpec, ...]:
        posteriors = GRID.stream(
            "posteriors", "multilabel", 2, "uint8", pool=self._pool, names=("beat", "downbeat")
        )
        if not self._settings.features:
            return (posteriors,)
        width = self._read()[0].get("transformer_dim", 512)
        return (posteriors, GRID.stream("frames", "features", width, "int8", pool=self._pool))

    def _read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The network's shape and its weights, as the authors' training code saved them."""
        import pickle

        import torch

        try:
            saved = torch.load(self._path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise UserError(f"{self._path} holds more than tensors and is not read") from None
        if not isinstance(saved, dict) or "state_dict" not in saved:
            raise UserError(f"{self._path} is no checkpoint of Beat This!: it has no state_dict")
        given = saved.get("hyper_parameters", {})
        hyper = {name: given[name] for name in HYPER if name in given}
        # The prefixes are the network's name in the training code and the prefix of torch.compile.
        state = {
            name.replace("_orig_mod.", "").removeprefix("model."): weight
            for name, weight in saved["state_dict"].items()
        }
        return hyper, state

    def _forward_batch(self, waves: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Computes native frames of each waveform of a batch, by stream."""
        import torch

        lengths = [len(wave) // HOP + 1 for wave in waves]
        padded_BL = _reflected(waves)
        with devices.turn(), torch.inference_mode():
            spectrogram_BTF = log_mel(devices.on_device(padded_BL, self._device), max(lengths))
            for row, length in enumerate(lengths):
                spectrogram_BTF[row, length:] = 0
            bordered_BTF = torch.nn.functional.pad(spectrogram_BTF, (0, 0, BORDER, BORDER))
            logits_BTD, states_BTD = self._network(
                bordered_BTF.to(self._dtype), [length + 2 * BORDER for length in lengths]
            )
            copies = {"posteriors": devices.HostCopy(logits_BTD.sigmoid())}
            if self._settings.features:
                copies["frames"] = devices.HostCopy(states_BTD.float())
        arrays = {name: copy.array() for name, copy in copies.items()}
        return [
            {name: each_BTD[row, BORDER : BORDER + GRID.count(len(wave))]
             for name, each_BTD in arrays.items()}
            for row, wave in enumerate(waves)
        ]  # fmt: skip


def log_mel(padded_BL: Any, num_frames: int) -> Any:
    """Computes (B, T, F): log(1 + 1000 mel) of magnitudes; half a window of padding at both ends.

    It is torchaudio's `MelSpectrogram(normalized="frame_length", power=1, mel_scale="slaney")`.
    """
    import torch

    window_W = torch.hann_window(WINDOW, device=padded_BL.device)
    frames_BTW = padded_BL.unfold(1, WINDOW, HOP)[:, :num_frames]
    magnitude_BTF = torch.fft.rfft(frames_BTW * window_W).abs() / WINDOW**0.5
    filters_FM = mel_bands(
        sample_rate=SAMPLE_RATE, fft=WINDOW, bands=BANDS, lowest_hz=LOWEST_HZ,
        highest_hz=HIGHEST_HZ, scale="slaney",
    )  # fmt: skip
    filters_FM = torch.from_numpy(filters_FM).to(padded_BL.device)
    return torch.log1p(LOG_FACTOR * (magnitude_BTF @ filters_FM))


def beat_times(posteriors_TD: np.ndarray) -> dict[str, list[float]]:
    """Times of beats and downbeats in seconds, by the authors' rule without a tempo model.

    A beat is a frame above 0.5 that is the highest within 60 ms; adjacent ones are merged. A
    downbeat is moved to the nearest beat.
    """
    beats_T, downbeats_T = (_peaks(column_T) for column_T in posteriors_TD.T)
    if len(beats_T):
        nearest = np.abs(beats_T - downbeats_T[:, None]).argmin(1)
        downbeats_T = np.unique(beats_T[nearest])
    hop_s = HOP / SAMPLE_RATE
    return {
        "beats": (beats_T * hop_s).round(3).tolist(),
        "downbeats": (downbeats_T * hop_s).round(3).tolist(),
    }


def _peaks(posterior_T: np.ndarray) -> np.ndarray:
    padded = np.pad(posterior_T, PEAK_REACH, constant_values=-1)
    highest_T = np.lib.stride_tricks.sliding_window_view(padded, 2 * PEAK_REACH + 1).max(1)
    frames = np.flatnonzero((posterior_T == highest_T) & (posterior_T > 0.5))
    groups = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    return np.array([group.mean() for group in groups if len(group)])


def _reflected(waves: Sequence[np.ndarray]) -> np.ndarray:
    """Returns (B, L): each wave with half a mirrored window at both ends, then zeros."""
    mirrored = [np.pad(wave, WINDOW // 2, mode="reflect") for wave in waves]
    # One frame more than the samples fill may end within a hop.
    padded_BL = np.zeros((len(waves), max(map(len, mirrored))), np.float32)
    for row, wave in enumerate(mirrored):
        padded_BL[row, : len(wave)] = wave
    return padded_BL
