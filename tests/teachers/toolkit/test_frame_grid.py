"""Tests for frame grids and for the windows of long clips."""

from __future__ import annotations

import pytest

from teachers.toolkit.frame_grid import num_frames, windows


@pytest.mark.parametrize(
    ("num_samples", "start_s", "hop_s", "count"),
    [(1, 0.0, 0.02, 1), (320, 0.0, 0.02, 1), (321, 0.0, 0.02, 2), (16_000, 0.0, 0.02, 50),
     (16_000, 0.01, 0.02, 50), (16_000, 0.03, 0.01, 97), (100, 0.48, 0.48, 1)],
)  # fmt: skip
def test_num_frames_counts_frames_centred_within_the_clip(
    num_samples: int, start_s: float, hop_s: float, count: int
):
    assert num_frames(num_samples, 16_000, start_s=start_s, hop_s=hop_s) == count


@pytest.mark.parametrize("total", [1, 100, 101, 160, 161, 1_000])
def test_windows_cover_every_frame_once(total: int):
    cut = windows(total, size=100, overlap=40)
    kept = [frame for _, first, end in cut for frame in range(first, end)]
    assert kept == list(range(total))
    for start, first, end in cut:
        assert start <= first < end <= start + 100
        assert first == 0 or first - start >= 20
        assert end == total or start + 100 - end >= 20
