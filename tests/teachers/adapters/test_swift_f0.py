"""Tests for SwiftF0: known pitches, pitch changes, silence, and clips of any length."""

from __future__ import annotations

import numpy as np
import pytest

from teachers.adapters.swift_f0 import SwiftF0, SwiftF0Settings
from teachers.protocol import Teacher
from teachers.toolkit.pitch_salience import frequency

RATE = 16_000


@pytest.fixture(scope="module")
def tracker() -> Teacher:
    teacher = SwiftF0("pitch", SwiftF0Settings())
    teacher.load(device="cpu", num_threads=1)
    return teacher


def tone(hertz: np.ndarray | float, seconds: float) -> np.ndarray:
    """Returns a tone with five harmonics, float32."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hertz, round(seconds * RATE))) / RATE
    return sum(0.1 / n * np.sin(n * phase) for n in range(1, 6)).astype(np.float32)


@pytest.mark.parametrize("hertz", [80.0, 220.0, 440.0, 1200.0])
def test_f0_of_a_tone_is_its_pitch(tracker: Teacher, hertz: float):
    frames = tracker.extract([tone(hertz, 1.0)])[0].frames
    f0_T, voicing_T = frames["f0"][5:-5].T
    assert np.abs(1200 * np.log2(f0_T / hertz)).max() < 30
    assert voicing_T.min() > 0.5
    inside = frames["salience"][5:-5, :-1]
    assert np.abs(1200 * np.log2(frequency(inside) / hertz)).max() < 30


def test_f0_changes_when_the_tone_changes(tracker: Teacher):
    delays = []
    for change in np.linspace(0.6, 0.63, 5):
        time = np.arange(RATE) / RATE
        f0_T = tracker.extract([tone(np.where(time < change, 300.0, 400.0), 1.0)])[0].frames["f0"][
            :, 0
        ]
        delays.append(0.016 * np.flatnonzero(f0_T > 346)[0] - 0.008 - change)
    assert abs(np.mean(delays)) <= 0.016


def test_silence_is_unvoiced_and_clips_are_independent(tracker: Teacher):
    waves = [tone(200, 0.5), np.zeros(RATE, np.float32), tone(300, 0.001), tone(250, 40)]
    together = tracker.extract(waves)
    assert together[1].frames["f0"][:, 1].max() == 0
    for wave, targets in zip(waves, together, strict=True):
        assert len(targets.frames["f0"]) == max(1, len(wave) // 256)
        (single,) = tracker.extract([wave])
        assert (single.frames["salience"] == targets.frames["salience"]).all()


def test_long_clip_gives_the_frames_of_its_parts(tracker: Teacher):
    time = np.arange(70 * RATE) / RATE
    wave = tone(200 + 40 * np.sin(time), 70)
    begin = 256 * 2000
    (whole,), (part,) = tracker.extract([wave]), tracker.extract([wave[begin:]])
    first, second = whole.frames["f0"][2000:][20:], part.frames["f0"][20:]
    assert np.abs(first - second)[:, 0].max() < 0.5
