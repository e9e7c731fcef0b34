"""Finds the most likely path of a pitch through salience (Viterbi), for many clips in parallel.

A pitch glides by up to `GLIDE_BINS` bins per frame, at a cost per bin, or leaps anywhere. The
scores of a batch of clips are in one long array, so each frame takes a few calls of NumPy for all
clips together. The forward pass stores scores but no decisions: decisions are recomputed from the
same numbers along the path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

# Legend: T frames, B pitch bins, C clips, M moves, L length of the array that holds all clips.

GLIDE_BINS, GLIDE_COST, LEAP_COST = 12, 0.05, 8.0
"""A path may move by up to 12 bins a frame at a cost (in nats) per bin, or leap anywhere."""
MOVES_M = np.arange(-GLIDE_BINS, GLIDE_BINS + 1)
COST_M = GLIDE_COST * np.abs(MOVES_M)
BATCH_BYTES = 64 << 20
"""Maximum size of the stored scores. Longer clips are processed twice, in parts."""


def best_paths(saliences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the path of each clip that maximises log salience minus the cost of its moves.

    Args:
        saliences: salience_TB of each clip, in [0, 1], T >= 1, all with the same bins.

    Returns:
        bin_T of each clip.
    """
    paths: list[np.ndarray] = [np.empty(0, np.intp)] * len(saliences)
    for clips in _batches(saliences):
        batch = _Batch([saliences[clip] for clip in clips])
        for clip, path_T in zip(clips, batch.paths(), strict=True):
            paths[clip] = path_T
    return paths


def _batches(saliences: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """Yields batches of clips of similar length whose scores fit into `BATCH_BYTES`, longest
    first."""
    batch: list[int] = []
    for clip in sorted(range(len(saliences)), key=lambda clip: -len(saliences[clip])):
        # Scores are float64.
        if batch and 8 * saliences[batch[0]].size * (len(batch) + 1) > BATCH_BYTES:
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch


class _Batch:
    """A batch of clips in order of descending length.

    Each clip's bins are followed by `GLIDE_BINS` unreachable places, so that shifting the whole
    array by a move never moves a score into the next clip.
    """

    def __init__(self, saliences: Sequence[np.ndarray]) -> None:
        self._saliences = saliences
        self._lengths = [len(salience_TB) for salience_TB in saliences]
        self._bins = saliences[0].shape[1]
        self._row = self._bins + GLIDE_BINS
        self._size = self._row * len(saliences) + 2 * GLIDE_BINS
        self._stretch = max(16, BATCH_BYTES // (8 * self._size))
        rows = len(saliences) * self._row
        self._moved_L, self._glide_L = np.empty(rows), np.empty(rows)

    def paths(self) -> list[np.ndarray]:
        """Returns bin_T of each clip."""
        starts = list(range(0, self._lengths[0], self._stretch))
        before: list[np.ndarray | None] = [None]
        scores_TL = np.empty((0, 0))
        for start in starts:
            scores_TL = self._forward(start, before[-1])
            before.append(scores_TL[-1].copy())
        paths = [np.empty(length, np.intp) for length in self._lengths]
        bin_C = np.zeros(len(paths), np.intp)
        for frame in reversed(range(len(starts))):
            if frame < len(starts) - 1:
                scores_TL = self._forward(starts[frame], before[frame])
            self._backward(starts[frame], scores_TL, paths, bin_C)
        return paths

    def _active(self, frame: int) -> int:
        """Counts the clips that have this frame; they come first."""
        return sum(length > frame for length in self._lengths)

    def _forward(self, start: int, before_L: np.ndarray | None) -> np.ndarray:
        """Scores of a range of frames, computed from those of the frame before it."""
        count = min(self._stretch, self._lengths[0] - start)
        emission_TL = np.full((count, len(self._lengths) * self._row), -np.inf, np.float32)
        for clip, salience_TB in enumerate(self._saliences):
            part_TB = salience_TB[start : start + count]
            place = slice(clip * self._row, clip * self._row + self._bins)
            emission_TL[: len(part_TB), place] = np.log(part_TB + 1e-6)
        scores_TL = np.full((count, self._size), -np.inf)
        for frame in range(count):
            end = self._active(start + frame) * self._row
            score_L = scores_TL[frame, GLIDE_BINS : GLIDE_BINS + end]
            if before_L is None:
                score_L[:] = emission_TL[frame, :end]
            else:
                np.add(self._reached(before_L, end), emission_TL[frame, :end], out=score_L)
            before_L = scores_TL[frame]
        return scores_TL

    def _reached(self, before_L: np.ndarray, end: int) -> np.ndarray:
        """The best score of reaching each place from the previous frame."""
        glide_L, moved_L = self._glide_L[:end], self._moved_L[:end]
        glide_L[:] = before_L[GLIDE_BINS : GLIDE_BINS + end]
        leap_C = glide_L.reshape(-1, self._row).max(1) - LEAP_COST
        for move in range(1, GLIDE_BINS + 1):
            # Two moves of equal cost share one subtraction: the larger score wins.
            left_L = before_L[GLIDE_BINS - move : GLIDE_BINS - move + end]
            right_L = before_L[GLIDE_BINS + move : GLIDE_BINS + move + end]
            np.maximum(left_L, right_L, out=moved_L)
            moved_L -= COST_M[GLIDE_BINS + move]
            np.maximum(glide_L, moved_L, out=glide_L)
        rows_CB = glide_L.reshape(-1, self._row)
        np.maximum(rows_CB, leap_C[:, None], out=rows_CB)
        return glide_L

    def _backward(
        self,
        start: int,
        scores_TL: np.ndarray,
        paths: Sequence[np.ndarray],
        bin_C: np.ndarray,
    ) -> None:
        """Follows the paths back through a range; `bin_C` are the bins of the frame after it."""
        path_TC = np.empty((len(scores_TL), len(paths)), np.intp)
        base_C = GLIDE_BINS + self._row * np.arange(len(paths))
        for frame in reversed(range(len(scores_TL))):
            clips = self._active(start + frame)
            following = self._active(start + frame + 1)
            rows_CB = self._rows(scores_TL[frame], clips)
            if following:
                bin_C[:following] = self._came_from(
                    scores_TL[frame], rows_CB[:following], base_C[:following], bin_C[:following]
                )
            if clips > following:
                # These clips end here.
                bin_C[following:clips] = rows_CB[following:].argmax(1)
            path_TC[frame] = bin_C
        for clip, path_T in enumerate(paths):
            count = min(max(0, len(path_T) - start), len(scores_TL))
            path_T[start : start + count] = path_TC[:count, clip]

    def _rows(self, score_L: np.ndarray, clips: int) -> np.ndarray:
        return score_L[GLIDE_BINS : GLIDE_BINS + clips * self._row].reshape(clips, self._row)

    @staticmethod
    def _came_from(
        score_L: np.ndarray, rows_CB: np.ndarray, base_C: np.ndarray, bin_C: np.ndarray
    ) -> np.ndarray:
        """The bins of this frame from which the bins of the next one were reached."""
        reached_CM = score_L[(base_C + bin_C)[:, None] + MOVES_M] - COST_M
        move_C = reached_CM.argmax(1)
        glide_C = reached_CM[np.arange(len(bin_C)), move_C]
        best_C = rows_CB.argmax(1)
        leap_C = rows_CB[np.arange(len(bin_C)), best_C] - LEAP_COST
        return np.where(glide_C >= leap_C, bin_C + MOVES_M[move_C], best_C)
