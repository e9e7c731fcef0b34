"""Windows over clips for frame-level models: cutting, batches of similar length, joining.

Every family that runs a network over waveforms has the same four steps: cut clips that are longer
than the network's window, run windows of similar length together, cross-fade frames where windows
overlap, and average frames down to the stored rate. Frames near a window's edge have less context
than their neighbours, so the outer quarters of an overlap are dropped and the middle half is a
linear cross-fade.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from manifests.errors import UserError
from manifests.streams.specs import StreamSpec
from teachers.toolkit.batching import BatchBudget

# Legend: T frames, D columns.

JOINED_FRAMES = 4096
"""Number of frames of a clip that are joined at once."""
POOLED_VALUES = 65_536
"""Number of means that are computed at once, so that they stay in the processor's cache."""

Run = Callable[[Sequence[np.ndarray]], Sequence[dict[str, np.ndarray]]]
"""Waveforms of one batch -> stream -> frames_TD of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The time grid of a network's frames, in samples."""

    sample_rate: int
    hop: int
    field: int
    """Samples that a window needs for its first frame."""
    centre: float
    """Centre of frame 0."""
    window: int = 0
    """Samples that one frame depends on directly, if different from `field`."""

    def count(self, num_samples: int) -> int:
        """Returns the number of frames of a waveform; at least one."""
        return max(1, (num_samples - self.field) // self.hop + 1)

    def samples(self, count: int) -> int:
        """Returns the number of samples that `count` frames depend on."""
        return (count - 1) * self.hop + self.field

    def stream(
        self, name: str, kind: str, dim: int, codec: str, *, pool: int = 1,
        names: Sequence[str] = (), unit: str = "",
    ) -> StreamSpec:  # fmt: skip
        """Builds the spec of a stream on this grid, with `pool` frames averaged into one."""
        return StreamSpec(
            name=name, kind=kind, dim=dim, codec=codec, names=tuple(names), unit=unit,
            start_s=(self.centre + (pool - 1) / 2 * self.hop) / self.sample_rate,
            hop_s=self.hop * pool / self.sample_rate,
            window_s=((pool - 1) * self.hop + (self.window or self.field)) / self.sample_rate,
        )  # fmt: skip

    def pool(self, frame_rate: float) -> int:
        """Returns the number of frames to average for `frame_rate` per second; 0 keeps all frames.

        Raises:
            UserError: the native rate is not a multiple of it.
        """
        native = self.sample_rate / self.hop
        times = round(native / frame_rate) if frame_rate else 1
        if times < 1 or abs(native / times - (frame_rate or native)) > 1e-3 * native:
            whole = ", ".join(f"{native / n:g}" for n in (1, 2, 4, 5, 10))
            raise UserError(
                f"frame_rate must divide the native {native:g} frames a second ({whole}, ...); "
                f"found {frame_rate:g}"
            )
        return times


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a clip that fits into a network's window."""

    clip: int
    first: int
    """Its first frame, counted from the clip's start."""
    samples: np.ndarray
    is_whole: bool
    """Whether it is the only window of its clip."""


def cut(waves: Sequence[np.ndarray], grid: Grid, *, size: int, step: int) -> list[Window]:
    """Cuts windows of at most `size` frames, every `step` frames.

    The last window of a long clip ends with the clip, so that all its windows are full; a clip
    shorter than one field is padded with silence.
    """
    pieces = []
    most = max(grid.field, grid.hop)
    for clip, wave in enumerate(waves):
        total = grid.count(len(wave))
        starts = list(range(0, max(1, total - size), step))
        if starts[-1] + size < total:
            starts.append(total - size)
        for first in starts:
            # The end of the clip, shorter than a hop, belongs to the last window.
            until = None if first + size >= total else (first + size - 1) * grid.hop + most
            samples = wave[first * grid.hop : until]
            samples = _at_least(samples, grid.field)
            pieces.append(Window(clip, first, samples, is_whole=len(starts) == 1))
    return pieces


def join(pieces: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    """Joins (first frame, frames_TD) of a clip's windows, in order."""
    if len(pieces) == 1:
        return pieces[0][1]
    total = pieces[-1][0] + len(pieces[-1][1])
    fades = [_fade(pieces, index) for index in range(len(pieces))]
    joined_TD = np.empty((total, pieces[0][1].shape[1]), np.float32)
    # Frames are joined in blocks, so that the float64 sums of a long clip stay small.
    for start in range(0, total, JOINED_FRAMES):
        stop = min(start + JOINED_FRAMES, total)
        summed_TD = np.zeros((stop - start, joined_TD.shape[1]))
        weight_T = np.zeros(stop - start)
        for (first, frames_TD), faded_T in zip(pieces, fades, strict=True):
            begin, end = max(first, start), min(first + len(frames_TD), stop)
            if begin >= end:
                continue
            own, place = slice(begin - first, end - first), slice(begin - start, end - start)
            summed_TD[place] += faded_T[own, None] * frames_TD[own]
            weight_T[place] += faded_T[own]
        joined_TD[start:stop] = summed_TD / weight_T[:, None]
    return joined_TD


def _fade(pieces: Sequence[tuple[int, np.ndarray]], index: int) -> np.ndarray:
    """The weight of each frame of a window, from its overlaps with its neighbours."""
    first, frames_TD = pieces[index]
    place_T = np.arange(len(frames_TD)) + 0.5
    faded_T = np.ones(len(frames_TD))
    if index > 0:
        before, frames = pieces[index - 1]
        faded_T = np.minimum(faded_T, _ramp(place_T, before + len(frames) - first))
    if index + 1 < len(pieces):
        overlap = first + len(frames_TD) - pieces[index + 1][0]
        faded_T = np.minimum(faded_T, _ramp(place_T[::-1], overlap))
    return faded_T


def num_groups(num_frames: int, times: int) -> int:
    """Returns the number of groups of `times` frames, see `pooled`."""
    return max(1, int(num_frames / times + 0.5))


def pooled(frames_TD: np.ndarray, times: int) -> np.ndarray:
    """Means of groups of `times` frames; a remainder of at least half a group is a frame, too."""
    if times == 1:
        return frames_TD
    num_frames, dim = frames_TD.shape
    groups = num_groups(num_frames, times)
    whole = min(groups, num_frames // times)
    pooled_GD = np.empty((groups, dim), np.float32)
    grouped_GND = frames_TD[: whole * times].reshape(whole, times, dim)
    if dim == 1:
        pooled_GD[:whole] = grouped_GND[:, :, 0].mean(1)[:, None]
    else:
        # A few groups at a time, in the order in which `mean` adds along the first axis.
        rows = max(1, POOLED_VALUES // dim)
        # For powers of two, multiplying is as exact as dividing, and faster.
        exact = times & (times - 1) == 0
        scale, factor = (np.multiply, 1 / times) if exact else (np.divide, times)
        for first in range(0, whole, rows):
            part_GD = pooled_GD[first : min(first + rows, whole)]
            part_GND = grouped_GND[first : first + rows]
            np.add(part_GND[:, 0], part_GND[:, 1], out=part_GD)
            for place in range(2, times):
                part_GD += part_GND[:, place]
            scale(part_GD, np.float32(factor), out=part_GD)
    if groups > whole:
        pooled_GD[whole] = frames_TD[whole * times :].mean(0)
    return pooled_GD


def over_clips(
    waves: Sequence[np.ndarray],
    grid: Grid,
    run: Run,
    *,
    size: int,
    overlap: int,
    budget: BatchBudget,
) -> list[dict[str, np.ndarray]]:
    """Computes stream -> frames_TD of each clip with `run` over batches of cross-faded windows.

    Args:
        waves: Clips of any length, at the grid's sample rate.
        grid: The network's time grid.
        run: The network.
        size: Frames of its longest window.
        overlap: Frames by which windows of a long clip overlap.
        budget: Padded seconds per batch.
    """
    clips = over_windows(waves, grid, run, size=size, overlap=overlap, budget=budget)
    return [
        {name: join([(first, frames[name]) for first, frames in windows]) for name in windows[0][1]}
        for windows in clips
    ]


def over_windows(
    waves: Sequence[np.ndarray],
    grid: Grid,
    run: Run,
    *,
    size: int,
    overlap: int,
    budget: BatchBudget,
) -> list[list[tuple[int, dict[str, np.ndarray]]]]:
    """Returns (first frame, frames_TD by stream) of each clip's windows, like `over_clips`."""
    pieces = cut(waves, grid, size=size, step=size - overlap)
    results = budget.run(
        [len(piece.samples) for piece in pieces],
        lambda batch: run([pieces[place].samples for place in batch]),
        per_second=grid.sample_rate,
    )
    clips: list[list[tuple[int, dict[str, np.ndarray]]]] = [[] for _ in waves]
    for piece, frames in zip(pieces, results, strict=True):
        clips[piece.clip].append((piece.first, frames))
    return clips


def _at_least(samples: np.ndarray, least: int) -> np.ndarray:
    samples = samples.astype(np.float32, copy=False)
    missing = least - len(samples)
    return np.pad(samples, (0, missing)) if missing > 0 else samples


def _ramp(place_T: np.ndarray, overlap: int) -> np.ndarray:
    """Returns 0 in the outer quarter of an overlap, 1 from its inner quarter on, else linear."""
    if overlap <= 0:
        return np.ones(len(place_T))
    return ((place_T - overlap / 4) / (overlap / 2)).clip(0, 1)
