"""Cuts clips into Whisper's windows, runs these in batches, and joins the results.

All Whisper families share this file: the time grid, the constants of Whisper's rules, and the loop
over windows. Whisper processes 30 s at a time. Windows of a longer clip overlap by 5 s; words
before the middle of the overlap come from the first window, words after it from the next.

Frames are joined in one of two ways (`fades`). With fades, frames of an overlap are cross-faded,
and the last window ends with the clip. Without fades, each window contributes its frames up to the
middle of the overlap, and the last window is as short as the rest of the clip. `whisper_ct2` has no
fades, as in its existing caches; other frames would need a new version of the teacher.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from manifests.streams.transcript import Confidence, Word
from teachers.protocol import Targets
from teachers.toolkit.batching import BatchBudget
from teachers.toolkit.frame_grid import windows
from teachers.toolkit.windowing import Grid, Window, cut, join, pooled
from teachers.toolkit.words import DecoderScores, build_confidence, transcript, within

# Legend: T frames of 20 ms, D width.

SAMPLE_RATE, HOP, HOP_S = 16_000, 320, 0.02
WINDOW_S, WINDOW_FRAMES, OVERLAP_FRAMES = 30, 1500, 250
GRID = Grid(sample_rate=SAMPLE_RATE, hop=HOP, field=1, centre=0.0, window=720)
MEL_TAIL = 800
"""Zeros that are appended to a clip, so that its log-mel reaches the floor."""
NO_SPEECH_THRESHOLD, LOG_PROBABILITY_THRESHOLD = 0.6, -1.0


def has_no_words(no_speech: float, mean_log_probability: float) -> bool:
    """Applies Whisper's rule: a window with likely silence and unlikely words has no words."""
    return no_speech > NO_SPEECH_THRESHOLD and mean_log_probability < LOG_PROBABILITY_THRESHOLD


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The frames and words of one window."""

    frames_TD: np.ndarray
    """Averages over `pool` frames if the window is a whole clip; else its frames."""
    words: Sequence[Mapping[str, Any]]
    """Words with `word`, `start` and `end`, in seconds from the window's start."""
    language: str
    scores: DecoderScores | None = None
    """The decoder's scores of the words, if it states them."""
    detected_language: str = ""
    """Language detected by a multilingual decoder."""


@dataclass(frozen=True, slots=True)
class ClipResult:
    """The frames and words of one clip."""

    frames_TD: np.ndarray
    """Averages over `pool` frames."""
    words: list[Word]
    language: str
    """Language of the first window that has words."""
    confidence: Confidence | None = None


def build_targets(clips: Sequence[ClipResult], language: str, *, transcribe: bool) -> list[Targets]:
    """Builds the targets of clips: frames and a transcript.

    Args:
        clips: The results of `over_windows`.
        language: Language of the transcripts, where a clip has none of its own.
        transcribe: Whether transcripts are stored.
    """
    return [
        Targets(
            {"encoder": clip.frames_TD},
            transcript(clip.words, clip.language or language, clip.confidence)
            if transcribe
            else {},
        )
        for clip in clips
    ]


def over_windows(
    waves: Sequence[np.ndarray],
    forward: Callable[[Sequence[Window], int], Sequence[WindowResult]],
    *,
    budget: BatchBudget,
    pool: int = 1,
    padded_frames: Callable[[int, int], int] = lambda frames, clip_frames: WINDOW_FRAMES,
    fades: bool = True,
) -> list[ClipResult]:
    """Computes the frames and words of clips of any length.

    Args:
        waves: Clips at 16 kHz.
        forward: The network: (a batch of windows, `padded_frames` of each) -> their results. It
            averages the frames of windows that are a whole clip, e.g. with `device.FramesCopy`.
        budget: Audio per batch. Each window counts as 30 s, to which it is padded.
        pool: Frames of 20 ms in a frame of the stream.
        padded_frames: (frames of a window, frames of its clip) -> frames to which the window is
            padded. Only windows with the same value share a batch.
        fades: Whether windows are cross-faded, see above.
    """
    counts = [GRID.count(len(wave)) for wave in waves]
    cut_waves = cut if fades else _cut_at_seams
    pieces = cut_waves(waves, GRID, size=WINDOW_FRAMES, step=WINDOW_FRAMES - OVERLAP_FRAMES)
    groups: dict[int, list[int]] = defaultdict(list)
    for place, piece in enumerate(pieces):
        key = padded_frames(GRID.count(len(piece.samples)), counts[piece.clip])
        groups[key].append(place)
    results: dict[int, WindowResult] = {}
    for key, group in groups.items():
        parts = [pieces[place] for place in group]
        ready = budget.run(
            [WINDOW_FRAMES] * len(group),
            lambda batch, parts=parts, key=key: forward([parts[place] for place in batch], key),
            per_second=1 / HOP_S,
        )
        results |= zip(group, ready, strict=True)
    clips: list[list[tuple[int, WindowResult]]] = [[] for _ in waves]
    for place, piece in enumerate(pieces):
        clips[piece.clip].append((piece.first, results[place]))
    return [_joined(parts, total, fades, pool) for parts, total in zip(clips, counts, strict=True)]


def _cut_at_seams(waves: Sequence[np.ndarray], grid: Grid, *, size: int, step: int) -> list[Window]:
    """Cuts windows every `step` frames; the last one is as short as the rest of the clip."""
    pieces = []
    for clip, wave in enumerate(waves):
        starts = [start for start, _, _ in windows(grid.count(len(wave)), size, size - step)]
        pieces += [
            Window(
                clip, start, wave[start * grid.hop :][: size * grid.hop], is_whole=len(starts) == 1
            )
            for start in starts
        ]
    return pieces


def _joined(
    parts: Sequence[tuple[int, WindowResult]], total: int, fades: bool, pool: int
) -> ClipResult:
    """Joins (first frame, result) of each window of a clip of `total` frames."""
    starts = [first for first, _ in parts]
    seams = [(start + WINDOW_FRAMES + after) // 2 for start, after in pairwise(starts)]
    firsts, ends = [0, *seams], [*seams, total]
    if fades:
        ends[-1] += 1  # The middle of a word at the end of a clip may be one frame after the clip.
    if len(parts) == 1:
        frames_TD = parts[0][1].frames_TD
    elif fades:
        frames_TD = pooled(join([(first, window.frames_TD) for first, window in parts]), pool)
    else:
        frames_TD = np.concatenate([
            window.frames_TD[first - start : end - start]
            for (start, window), first, end in zip(parts, firsts, ends, strict=True)
        ])  # fmt: skip
    words: list[Word] = []
    for (start, window), first, end in zip(parts, firsts, ends, strict=True):
        words += within(window.words, start=start, first=first, end=end, hop_s=HOP_S)
    language = next((window.language for _, window in parts if window.words), "")
    confidence = build_confidence(
        [window.scores for _, window in parts if window.scores is not None],
        "".join(word.text for word in words).strip(),
        next((window.detected_language for _, window in parts if window.words), ""),
    )
    return ClipResult(frames_TD, words, language, confidence)
