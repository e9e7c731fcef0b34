"""A minimal teacher: computes loudness in decibels, 100 times per second.

    PYTHONPATH=. coat-cache build --corpus corpus/ --cache cache/ --preset none \
        --teacher '{"loudness": {"family": "examples.own_teacher:Loudness"}}'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers.protocol import Targets
from teachers.toolkit.frame_grid import num_frames

SAMPLE_RATE = 16_000
HOP = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class LoudnessSettings:
    """Settings of `Loudness`."""

    floor_db: float = -80.0
    """Level of silence, in dB relative to full scale."""


class Loudness:
    """Computes the RMS level of every 10 ms."""

    Settings = LoudnessSettings

    def __init__(self, name: str, settings: LoudnessSettings) -> None:
        self._name = name
        self._settings = settings

    def spec(self) -> TeacherSpec:
        """Describes one stream of one column; the centre of frame 0 is at 5 ms."""
        hop_s = HOP / SAMPLE_RATE
        level = StreamSpec(
            name="level", kind="features", dim=1, codec="fp16", names=("level",), unit="dB",
            start_s=hop_s / 2, hop_s=hop_s, window_s=hop_s,
        )  # fmt: skip
        return TeacherSpec(
            name=self._name,
            family="examples.own_teacher:Loudness",
            revision=1,
            settings=asdict(self._settings),
            weights={},
            sample_rate=SAMPLE_RATE,
            streams=(level,),
            license="none needed",
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """Does nothing, because there is no model."""

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """Computes the levels of each waveform."""
        return [Targets({"level": self._levels(wave)}) for wave in waves]

    def _levels(self, wave: np.ndarray) -> np.ndarray:
        hop_s = HOP / SAMPLE_RATE
        count = num_frames(len(wave), SAMPLE_RATE, start_s=hop_s / 2, hop_s=hop_s)
        padded = np.pad(wave, (0, max(0, count * HOP - len(wave))))[: count * HOP]
        rms_T = np.sqrt(np.square(padded.reshape(count, HOP)).mean(1))
        level_T = 20 * np.log10(np.maximum(rms_T, 10 ** (self._settings.floor_db / 20)))
        return level_T[:, None].astype(np.float32)
