"""Tests for speaker columns: matching across windows, order, and segments."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from teachers.toolkit.speakers import (
    best_assignment,
    first_speech_order,
    matching_order,
    segments,
)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_best_assignment_matches_scipy(size: int):
    rng = np.random.default_rng(size)
    for _ in range(10):
        score_CC = rng.normal(size=(size, size))
        _, expected = linear_sum_assignment(score_CC, maximize=True)
        assert best_assignment(score_CC) == expected.tolist()


def test_columns_of_a_window_are_matched_in_the_overlap():
    rng = np.random.default_rng(0)
    activity_TC = (rng.random((100, 4)) > 0.5).astype(float) * 0.8 + 0.1
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0]):
        window_TC = activity_TC[40:][:, np.argsort(order)]
        assert matching_order(activity_TC[40:70], window_TC, np.ones(4, bool)) == order


def test_new_speaker_gets_an_unused_column():
    """Two speakers are known; the next window has one of them and a new one."""
    shared_TC = np.full((50, 4), 0.02)
    shared_TC[:, 0] = 0.9
    window_TC = np.full((200, 4), 0.02)
    window_TC[:100, 2] = 0.9
    window_TC[100:, 1] = 0.9
    order = matching_order(shared_TC, window_TC, np.array([True, True, False, False]))
    assert order[0] == 2
    assert order[1] != 1


def test_columns_are_ordered_by_first_speech():
    activity_TC = np.zeros((100, 4))
    activity_TC[50:80, 0] = 0.9
    activity_TC[10:60, 2] = 0.9
    # A single frame does not count as speech.
    activity_TC[3, 3] = 0.9
    assert first_speech_order(activity_TC, frames=10) == [2, 0, 1, 3]
    assert first_speech_order(activity_TC[:5], frames=10) == [0, 1, 2, 3]


def test_segments_lists_the_turns_of_all_speakers():
    activity_TC = np.zeros((10, 2))
    activity_TC[0:3, 1] = activity_TC[6:, 1] = activity_TC[2:7, 0] = 0.9
    assert segments(activity_TC, ["A", "B"], start_s=0.0, hop_s=0.1) == [
        ["B", 0.0, 0.25], ["A", 0.15, 0.65], ["B", 0.55, 0.95],
    ]  # fmt: skip
