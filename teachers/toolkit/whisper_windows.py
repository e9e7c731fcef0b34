"""Whisper's windows: long clips are cut into them, heard in batches, and put together again.

Whisper hears 30 s at a time. Windows of a longer clip share 5 s, in which the frames fade into each
other; in the middle of it one window's words end and the next one's begin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from manifests.streams.transcript import Word
from teachers.toolkit.batching import BatchBudget
from teachers.toolkit.windowing import Grid, Window, cut, join
from teachers.toolkit.words import within

# Legend: T frames of 20 ms, D width.

SAMPLE_RATE, HOP, HOP_S = 16_000, 320, 0.02
WINDOW_FRAMES, OVERLAP_FRAMES = 1500, 250
GRID = Grid(sample_rate=SAMPLE_RATE, hop=HOP, field=1, centre=0.0, window=720)
NO_SPEECH_THRESHOLD, LOG_PROBABILITY_THRESHOLD = 0.6, -1.0
"""Whisper's own rule: a window that is likely silent and unlikely worded has no words."""


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What was heard in one window."""

    frames_TD: np.ndarray
    words: Sequence[Mapping[str, Any]]
    """With `word`, `start` and `end`, in seconds from the window's beginning."""
    language: str


@dataclass(frozen=True, slots=True)
class Clip:
    """What was heard in a clip."""

    frames_TD: np.ndarray
    words: list[Word]
    """[word, start s, end s]"""
    language: str
    """Of the first window that has words."""


def over_windows(
    waves: Sequence[np.ndarray],
    hear: Callable[[Sequence[Window]], Sequence[WindowResult]],
    *,
    budget: BatchBudget,
    alike: Callable[[int], int] = lambda frames: WINDOW_FRAMES,
) -> list[Clip]:
    """Frames and words of clips of any length.

    Args:
        waves: At 16 kHz.
        hear: The network, over a batch of windows.
        budget: Seconds per batch; each window counts 30, for it is padded to that.
        alike: Frames of a window -> what it must have in common with the rest of its batch.
    """
    pieces = cut(waves, GRID, size=WINDOW_FRAMES, step=WINDOW_FRAMES - OVERLAP_FRAMES)
    groups: dict[int, list[int]] = defaultdict(list)
    for at, piece in enumerate(pieces):
        groups[alike(GRID.count(len(piece.samples)))].append(at)
    heard: dict[int, WindowResult] = {}
    for group in groups.values():
        windows = [pieces[at] for at in group]
        results = budget.run(
            [WINDOW_FRAMES] * len(group),
            lambda batch, windows=windows: hear([windows[at] for at in batch]),
            per_second=1 / HOP_S,
        )
        heard |= zip(group, results, strict=True)
    clips: list[list[tuple[int, WindowResult]]] = [[] for _ in waves]
    for at, piece in enumerate(pieces):
        clips[piece.clip].append((piece.first, heard[at]))
    return [_joined(windows) for windows in clips]


def _joined(windows: Sequence[tuple[int, WindowResult]]) -> Clip:
    frames_TD = join([(first, window.frames_TD) for first, window in windows])
    starts = [first for first, _ in windows]
    joins = [(start + WINDOW_FRAMES + after) // 2 for start, after in pairwise(starts)]
    # A word at a clip's very end may lie, by its middle, a frame behind it.
    said = []
    for (start, window), first, end in zip(
        windows, [0, *joins], [*joins, len(frames_TD) + 1], strict=True
    ):
        said += within(window.words, start=start, first=first, end=end, hop_s=HOP_S)
    language = next((window.language for _, window in windows if window.words), "")
    return Clip(frames_TD, said, language)
