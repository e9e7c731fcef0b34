"""Pitch of voices in music: RMVPE (Wei et al., Interspeech 2023, arXiv 2306.15412).

The network is used for voice conversion and distributed as an ONNX file (`rmvpe.onnx` of
lj1995/VoiceConversionWebUI, MIT). It maps a log-mel spectrogram (1, 128, T), T a multiple of 32, to
salience (1, T, 360) over CREPE's pitch bins every 10 ms. You must download the file; it is not in a
wheel. The spectrogram is the same as in the package rmvpe-onnx (MIT), implemented in numpy:
magnitudes of 1024 samples every 160 at 16 kHz, 128 HTK bands from 30 Hz to 8 kHz with Slaney's
norm.
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
from teachers.protocol import Targets
from teachers.toolkit.batching import BatchBudget
from teachers.toolkit.mel_bands import mel_bands
from teachers.toolkit.onnx_session import open_session
from teachers.toolkit.pitch_path import best_paths
from teachers.toolkit.pitch_salience import BINS, frequency, pitch_streams
from teachers.toolkit.windowing import Grid, over_clips

# Legend: L samples, T frames, M mel bands, B pitch bins.

SAMPLE_RATE, HOP, WINDOW, BANDS = 16_000, 160, 1024, 128
FLOOR = 1e-5
FRAME_MULTIPLE = 32
"""The network halves the frames five times."""
WINDOW_FRAMES, OVERLAP_FRAMES = 3200, 400
"""Longer clips are processed in windows of 32 s, which overlap by 4 s."""
SILENCE_PEAK = 1e-4
"""Quieter frames (-80 dBFS) have no pitch, as with CREPE."""
GRID = Grid(sample_rate=SAMPLE_RATE, hop=HOP, field=1, centre=0.0, window=WINDOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class RMVPESettings:
    """Settings of `RMVPE`."""

    model: str = ""
    """Path of `rmvpe.onnx`."""
    license: str = ""
    """Licence of the weights; MIT if empty. Does not change the features."""


class RMVPE:
    """360-bin pitch salience with voicing, and f0, every 10 ms."""

    Settings = RMVPESettings

    def __init__(self, name: str, settings: RMVPESettings) -> None:
        self._name = name
        self._settings = settings
        self._path = Path(settings.model).expanduser()
        if self._path.suffix != ".onnx" or not self._path.is_file():
            raise UserError(
                f"teacher {name}: model must be RMVPE's .onnx file (rmvpe.onnx of "
                f"lj1995/VoiceConversionWebUI); found {settings.model or 'nothing'}"
            )
        self._session: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        return TeacherSpec(
            name=self._name,
            family="rmvpe",
            revision=1,
            settings={"model": self._settings.model},
            weights={self._path.name: sha256(self._path)},
            sample_rate=SAMPLE_RATE,
            streams=pitch_streams(hop_s=HOP / SAMPLE_RATE, window_s=WINDOW / SAMPLE_RATE),
            license=self._settings.license or "MIT",
        )  # fmt: skip

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        self._session = open_session(self._path, num_threads=num_threads, device=device)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shapes = [list(each.shape) for each in (*inputs, *outputs)]
        if len(shapes) != 2 or shapes[0][1] != BANDS or shapes[1][-1] != BINS:
            raise UserError(
                f"{self._path} maps {shapes[:1]} to {shapes[1:]}; RMVPE maps a spectrogram of "
                f"{BANDS} bands to {BINS} pitch bins"
            )
        self._names = inputs[0].name, outputs[0].name

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        clips = over_clips(
            waves, GRID, self._forward_batch, size=WINDOW_FRAMES, overlap=OVERLAP_FRAMES,
            # The network processes one clip at a time.
            budget=BatchBudget(1.0),
        )  # fmt: skip
        saliences = [frames["salience"] for frames in clips]
        targets = []
        for salience_TB, path_T in zip(saliences, best_paths(saliences), strict=True):
            voicing_T = salience_TB.max(1)
            f0_T = frequency(salience_TB, path_T)
            targets.append(Targets({
                "salience": np.column_stack([salience_TB, voicing_T]),
                "f0": np.column_stack([f0_T, voicing_T]).astype(np.float32),
            }))  # fmt: skip
        return targets

    def _forward_batch(self, waves: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Computes the salience of each waveform."""
        source, result = self._names
        results = []
        for wave in waves:
            mel_MT = log_mel(wave)
            padded_MT = np.pad(mel_MT, ((0, 0), (0, -mel_MT.shape[1] % FRAME_MULTIPLE)))
            (salience_1TB,) = self._session.run([result], {source: padded_MT[None]})
            count = GRID.count(len(wave))
            is_loud_T = _frames(np.abs(wave), "constant")[:count].max(1) > SILENCE_PEAK
            salience_TB = salience_1TB[0, :count] * is_loud_T[:, None]
            results.append({"salience": salience_TB.clip(0, 1).astype(np.float32)})
        return results


def log_mel(wave: np.ndarray) -> np.ndarray:
    """Computes (M, T): log mel magnitudes, one frame per hop from the first sample on."""
    angle = 2 * np.pi * np.arange(WINDOW) / WINDOW
    hann = (0.5 - 0.5 * np.cos(angle)).astype(np.float32)
    magnitude_TF = np.abs(np.fft.rfft(_frames(wave, "reflect") * hann)).astype(np.float32)
    filters_FM = mel_bands(
        sample_rate=SAMPLE_RATE, fft=WINDOW, bands=BANDS, lowest_hz=30.0, highest_hz=8000.0,
        scale="htk", equal_area=True,
    )  # fmt: skip
    return np.log(np.maximum(magnitude_TF @ filters_FM, FLOOR)).T


def _frames(wave: np.ndarray, mode: Any) -> np.ndarray:
    padded_L = np.pad(wave.astype(np.float32, copy=False), WINDOW // 2, mode=mode)
    return np.lib.stride_tricks.sliding_window_view(padded_L, WINDOW)[::HOP]
