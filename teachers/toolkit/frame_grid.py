"""Frame grids: the number of frames of a clip, and the joining of windows of a long clip."""

from __future__ import annotations

import math


def num_frames(num_samples: int, sample_rate: int, *, start_s: float, hop_s: float) -> int:
    """Counts frames whose centre `start_s + i * hop_s` lies within the clip; at least one."""
    duration = num_samples / sample_rate
    return max(1, math.ceil((duration - start_s) / hop_s - 1e-6))


def windows(total: int, size: int, overlap: int) -> list[tuple[int, int, int]]:
    """Cuts `total` frames into overlapping windows of `size`, and returns the part of each to keep.

    Each window keeps half of its overlap, so no kept frame is closer to a window's edge than
    `overlap / 2`, except at the ends of the clip.

    Returns:
        (first frame of the window, first frame kept, end of the frames kept), all counted from the
        clip's start; the kept ranges are consecutive and cover [0, total).
    """
    hop = size - overlap
    starts = [0]
    while starts[-1] + size < total:
        starts.append(starts[-1] + hop)
    joins = [start + overlap // 2 for start in starts[1:]]
    return list(zip(starts, [0, *joins], [*joins, total], strict=True))
