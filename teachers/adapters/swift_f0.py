"""Pitch, fast: SwiftF0 (Nieradzik 2025, arXiv 2508.18440), a network of 14 thousand parameters.

The graph maps a waveform to f0 and confidence every 16 ms, nine times as fast as CREPE tiny on the
same notes and as accurate there (`benchmarks/results/pitch.txt`). It has no salience, so the pitch
stream is CREPE's training target: a Gaussian of 25 cents around f0, scaled by the confidence. It
tracks one voice at a time, from 46.9 to 2,094 Hz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.packaged_weights import packaged_file, sha256
from manifests.streams.pitch_bins import CREPE_BINS
from manifests.streams.specs import TeacherSpec
from teachers.protocol import Targets
from teachers.toolkit.onnx_session import open_session
from teachers.toolkit.pitch_salience import BINS, pitch_streams

# Legend: T frames, B pitch bins.

SAMPLE_RATE, HOP, WINDOW = 16_000, 256, 2048
LOWEST, HIGHEST = 46.875, 2093.75
LEFT_FRAMES, RIGHT_FRAMES, CHUNK_FRAMES = 11, 10, 1875
"""Chunks of 30 s with 11 more frames before and 10 after give the same result as the whole clip."""
SILENCE_PEAK = 1e-3
"""Quieter frames have no pitch: on digital silence the network's output is random."""
SPREAD_CENTS = 25.0
MODEL_SHA256 = "6385e8c2ebc3872e82c9ff5946228de44cd3be77a750ea53698b7dbfe94b0a22"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwiftF0Settings:
    """Settings of `SwiftF0`, which has none."""


class SwiftF0:
    """f0 and confidence every 16 ms."""

    Settings = SwiftF0Settings

    def __init__(self, name: str, settings: SwiftF0Settings) -> None:
        self._name = name
        self._weights = packaged_file("swift-f0", "swift_f0/model.onnx", MODEL_SHA256)
        self._session: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        return TeacherSpec(
            name=self._name,
            family="swift_f0",
            revision=1,
            settings={},
            weights={self._weights.name: sha256(self._weights)},
            sample_rate=SAMPLE_RATE,
            streams=pitch_streams(hop_s=HOP / SAMPLE_RATE, window_s=WINDOW / SAMPLE_RATE),
            license="MIT",
        )  # fmt: skip

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`. Runs on the CPU: it is too small for a GPU."""
        self._session = open_session(self._weights, num_threads=num_threads)

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        results = []
        for wave in waves:
            f0_T, voicing_T = self._track(wave.astype(np.float32, copy=False))
            frames = {
                "salience": np.column_stack([salience(f0_T, voicing_T), voicing_T]),
                "f0": np.column_stack([f0_T, voicing_T]),
            }
            results.append(Targets(frames))
        return results

    def _track(self, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = max(1, len(wave) // HOP)
        wave = np.pad(wave, (0, max(0, WINDOW - len(wave))))
        parts = []
        for start in range(0, count, CHUNK_FRAMES):
            end = min(start + CHUNK_FRAMES, count)
            left = max(0, start - LEFT_FRAMES)
            stop = len(wave) if end == count else (end + RIGHT_FRAMES) * HOP
            window = wave[left * HOP : stop]
            pitch, confidence = self._session.run(
                ["pitch", "confidence"],
                {
                    "audio": window[None],
                    "fmin": np.array(LOWEST, np.float32),
                    "fmax": np.array(HIGHEST, np.float32),
                },
            )
            kept = slice(start - left, end - left)
            parts.append((pitch[0, kept], confidence[0, kept]))
        f0_T, voicing_T = (
            np.concatenate(each).astype(np.float32) for each in zip(*parts, strict=True)
        )
        peak_T = np.abs(wave[: count * HOP].reshape(count, HOP)).max(1)
        return f0_T, np.where(peak_T < SILENCE_PEAK, 0, voicing_T).clip(0, 1).astype(np.float32)


def salience(f0_T: np.ndarray, voicing_T: np.ndarray) -> np.ndarray:
    """Computes (T, B) in [0, 1]: a Gaussian around f0 over CREPE's bins, as high as the voicing."""
    bins_B = CREPE_BINS.cents(BINS)
    cents_T = 1200.0 * np.log2(np.maximum(f0_T, 1.0) / CREPE_BINS.lowest_hz)
    distance_TB = (bins_B - cents_T[:, None]) / SPREAD_CENTS
    return (voicing_T[:, None] * np.exp(-0.5 * distance_TB**2)).astype(np.float32)
