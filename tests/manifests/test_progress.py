"""Tests for the lines of progress in log files."""

from __future__ import annotations

import pytest

from manifests import progress


def test_log_files_get_three_lines_in_the_first_minute_and_then_one_a_minute(
    monkeypatch: pytest.MonkeyPatch,
):
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    pace = progress.LogPace()
    lines = []
    for tick in range(2 * 260):
        now = 1000.0 + tick / 2
        if pace.is_due():
            lines.append(tick / 2)
    assert lines == [10.0, 30.0, 60.0, 120.0, 180.0, 240.0]


def test_log_pace_skips_lines_during_a_long_step(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    pace = progress.LogPace()
    due = []
    for now in (45.0, 46.0, 60.0, 61.0, 300.0, 301.0, 360.0):  # noqa: B007  (read by the clock)
        due.append(pace.is_due())
    assert due == [True, False, True, False, True, False, True]
