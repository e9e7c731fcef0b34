"""Tests for the estimated time that a teacher still needs."""

from __future__ import annotations

import pytest

from pipeline.build.time_left import TimeLeft


def test_estimate_counts_audio_and_not_clips() -> None:
    """Half of the clips, which were short, are done: a third of the audio."""
    left = TimeLeft(20, 3.0)
    left.update(0.0, 0, 0.0)
    assert left.seconds is None
    left.update(10.0, 10, 20.0)
    assert left.seconds == pytest.approx(20.0)
    left.update(30.0, 20, 60.0)
    assert left.seconds == 0.0


def test_estimate_does_not_jump_between_blocks() -> None:
    """Blocks of 40 s of audio arrive every 20 s; the estimate falls with the wall time."""
    left = TimeLeft(1000, 4.0)
    errors = []
    for now in range(1800):
        blocks = now // 20
        left.update(float(now), blocks * 10, blocks * 40.0)
        if now > 300:
            estimate = left.seconds
            assert estimate is not None
            errors.append(abs(estimate - (2000 - now)) / (2000 - now))
    assert max(errors) < 0.12


def test_estimate_follows_a_change_of_speed() -> None:
    left = TimeLeft(1000, 4.0)
    left.update(0.0, 0, 0.0)
    left.update(400.0, 100, 400.0)
    assert left.seconds == pytest.approx(3600.0)
    for now in range(500, 1001, 20):
        left.update(float(now), now // 2, now * 2.0)
    assert left.seconds == pytest.approx(1000.0)


def test_estimate_without_known_lengths_uses_the_processed_clips() -> None:
    left = TimeLeft(10, None)
    left.update(0.0, 0, 0.0)
    left.update(5.0, 5, 25.0)
    assert left.seconds == pytest.approx(5.0)


def test_estimate_is_unknown_when_nothing_is_done_for_minutes() -> None:
    left = TimeLeft(10, 1.0)
    for now in range(0, 1000, 10):
        left.update(float(now), 1, 1.0)
    assert left.seconds is None


def test_estimate_ends_when_the_last_clip_takes_longer_than_estimated() -> None:
    """A log said "about 1 min left" for four minutes: the last clip was 240 s long."""
    left = TimeLeft(39, 4.0)
    left.update(0.0, 0, 0.0)
    for now in range(1, 39):
        left.update(float(now), now, now * 4.0)
    assert left.seconds == pytest.approx(1.0, abs=0.1)
    left.update(90.0, 38, 152.0)
    assert left.seconds is not None
    left.update(100.0, 38, 152.0)
    assert left.seconds is None
    left.update(280.0, 39, 392.0)
    assert left.seconds == 0.0
