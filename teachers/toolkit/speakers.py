"""Matches the speakers of consecutive windows.

A diarization model numbers the speakers of each window arbitrarily. Windows of a long clip overlap
by some seconds, in which the same people speak: there the columns are matched. Finally the columns
are sorted by first speech, so that targets of different clips are comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Legend: T frames, C speakers.

ACTIVE = 0.5
"""Minimum probability of an active speaker."""
NEW_SPEAKER_BONUS = 0.01
"""Bonus per shared frame: a speaker who is silent in the overlap continues an unused column, if
there is one. It is far smaller than the differences between speakers."""


def matching_order(
    shared_TC: np.ndarray, window_TC: np.ndarray, was_active_C: np.ndarray
) -> list[int]:
    """Finds the column of a window that continues each column of the clip so far.

    Args:
        shared_TC: The clip's last frames, which are also the window's first ones.
        window_TC: The window.
        was_active_C: Which columns of the clip have spoken so far.

    Returns:
        Clip column -> window column.
    """
    begin_TC = window_TC[: len(shared_TC)]
    is_new_C = window_TC.max(0) >= ACTIVE
    is_new_C &= begin_TC.max(0, initial=0.0) < ACTIVE
    distance_CC = np.square(shared_TC[:, :, None] - begin_TC[:, None, :]).sum(0) / 2
    score_CC = NEW_SPEAKER_BONUS * len(shared_TC) * np.outer(~was_active_C, is_new_C) - distance_CC
    return best_assignment(score_CC)


def best_assignment(score_CC: np.ndarray) -> list[int]:
    """Assigns different columns to the rows with the largest sum; exact, over all sets."""
    size = len(score_CC)
    best = {0: (0.0, ())}
    for row in range(size):
        following: dict[int, tuple[float, tuple[int, ...]]] = {}
        for taken, (score, columns) in best.items():
            for column in range(size):
                if taken & 1 << column:
                    continue
                key, total = taken | 1 << column, score + float(score_CC[row, column])
                if key not in following or total > following[key][0]:
                    following[key] = (total, (*columns, column))
        best = following
    ((_, columns),) = best.values()
    return list(columns)


def first_speech_order(activity_TC: np.ndarray, *, frames: int) -> list[int]:
    """Sorts columns by the first time a speaker is active on average over `frames` frames.

    Speakers who never speak come last, in their original order.
    """
    length = min(frames, len(activity_TC))
    sums_TC = np.cumsum(np.pad(activity_TC, ((1, 0), (0, 0))), axis=0)
    mean_TC = (sums_TC[length:] - sums_TC[:-length]) / length
    is_active_TC = mean_TC >= ACTIVE
    first_C = np.where(is_active_TC.any(0), is_active_TC.argmax(0), len(activity_TC))
    return np.argsort(first_C, kind="stable").tolist()


def segments(
    activity_TC: np.ndarray, names: Sequence[str], *, start_s: float, hop_s: float
) -> list[list[Any]]:
    """Returns [speaker, start s, end s] of every segment of speech, sorted by start."""
    padded_TC = np.pad(activity_TC >= ACTIVE, ((1, 1), (0, 0))).astype(np.int8)
    change_TC = np.diff(padded_TC, axis=0)
    labels = []
    for column, name in enumerate(names):
        starts, ends = (np.flatnonzero(change_TC[:, column] == sign) for sign in (1, -1))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            begin = max(0.0, start_s + (start - 0.5) * hop_s)
            labels.append([name, round(begin, 3), round(start_s + (end - 0.5) * hop_s, 3)])
    return sorted(labels, key=lambda segment: segment[1:])
