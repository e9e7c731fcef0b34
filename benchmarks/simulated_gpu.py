"""A teacher with the shapes of Whisper large-v3's encoder that sleeps instead of computing.

Everything around the network is real: windows, int8, sums. Each call of the network sleeps for as
long as its operations take on the card, and its times go to a log. It returns 25 frames a second,
because a GPU averages the frames of clips of one window itself (`teachers.toolkit.device`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manifests.streams.specs import TeacherSpec
from teachers.protocol import Targets
from teachers.toolkit import device
from teachers.toolkit.batching import BatchBudget
from teachers.toolkit.whisper_windows import GRID, SAMPLE_RATE, WindowResult, over_windows
from teachers.toolkit.windowing import Window, num_groups

WIDTH, LAYERS, WINDOW_FRAMES, MELS = 1280, 32, 1500, 128
H100_FLOPS = 989e12
"""Dense half-precision operations per second of the SXM card, from its data sheet."""
UTILISATION = 0.5
"""Assumed utilisation of the encoder."""
POOL = 2


def flops_per_window() -> float:
    """Counts the operations of the encoder for 30 s: layers, attention and two convolutions."""
    layers = 24 * WINDOW_FRAMES * LAYERS * WIDTH**2
    attention = 4 * WINDOW_FRAMES**2 * LAYERS * WIDTH
    first = 2 * 3 * MELS * WIDTH * 2 * WINDOW_FRAMES
    second = 2 * 3 * WIDTH**2 * WINDOW_FRAMES
    return float(layers + attention + first + second)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSettings:
    """Settings of `Simulated`."""

    seconds_per_window: float = flops_per_window() / (UTILISATION * H100_FLOPS)
    """Time of the network for 30 s of audio."""
    log: str = ""
    """Folder for the times of every call."""
    overlaps: bool = True
    """Whether processing around the network may overlap with the next batch's network."""


class Simulated:
    """The simulated teacher; see the module."""

    Settings = SimulatedSettings

    def __init__(self, name: str, settings: SimulatedSettings) -> None:
        self._name = name
        self._settings = settings
        self.overlaps = settings.overlaps
        self.budget = BatchBudget(600.0)
        self._frames_TD = np.empty((0, 0), np.float32)

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        return TeacherSpec(
            name=self._name, family="benchmarks.simulated_gpu:Simulated", revision=1, settings={},
            weights={}, sample_rate=SAMPLE_RATE, license="none",
            streams=(GRID.stream("encoder", "features", WIDTH, "int8", pool=POOL),),
        )  # fmt: skip

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        rng = np.random.default_rng(0)
        self._frames_TD = rng.normal(size=(WINDOW_FRAMES, WIDTH)).astype(np.float32)

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        clips = over_windows(waves, self._forward_batch, budget=self.budget, pool=POOL)
        return [Targets({"encoder": clip.frames_TD}) for clip in clips]

    def _forward_batch(self, windows: Sequence[Window], padded_frames: int) -> list[WindowResult]:
        with device.turn():
            start = time.time()
            time.sleep(len(windows) * self._settings.seconds_per_window)
            ended = time.time()
            if self._settings.log:
                with open(Path(self._settings.log, f"{os.getpid()}.log"), "a") as file:
                    file.write(f"{start} {ended} {len(windows)}\n")
        counts = [GRID.count(len(window.samples)) for window in windows]
        sizes = [
            num_groups(count, POOL) if window.is_whole else count
            for window, count in zip(windows, counts, strict=True)
        ]
        # A copy, like that from the device.
        return [WindowResult(self._frames_TD[:size].copy(), [], "") for size in sizes]


@dataclass(frozen=True, slots=True)
class Log:
    """The calls of the network in one build."""

    busy: float
    """Seconds in the network."""
    start: float
    """Start of its first call in seconds (`time.time`)."""
    end: float
    """End of its last call."""
    windows: int

    @property
    def span(self) -> float:
        """Seconds from the first call to the last."""
        return self.end - self.start


def read_log(folder: Path) -> Log:
    """Reads the times of all calls that a build logged."""
    calls = [
        tuple(map(float, line.split()))
        for path in folder.glob("*.log")
        for line in path.read_text().splitlines()
    ]
    return Log(
        busy=sum(ended - start for start, ended, _ in calls),
        start=min(start for start, *_ in calls),
        end=max(ended for _, ended, _ in calls),
        windows=int(sum(windows for *_, windows in calls)),
    )
