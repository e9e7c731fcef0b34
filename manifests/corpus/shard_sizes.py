"""Number of clips in the shards of a corpus: bounded by their audio, too.

A shard is what one process commits at once and what a crash can lose, so shards of long clips hold
fewer of them: about 4 hours of audio, and at most 8. Lengths are the stated or estimated ones. A
clip of unknown length counts as the mean of its neighbours; where no length is known, only the
number of clips is bounded, and a commit still holds no more than a row group in memory.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from manifests.clips import likely_durations

SHARD_SECONDS = 4 * 3600.0
"""Audio in the shards of a part on average."""
MAX_SECONDS = 2 * SHARD_SECONDS
"""The most audio in a shard of more than `FEWEST` clips."""
FEWEST = 4
LARGER = 4
"""A part ends where this many times as many clips would fit into a shard."""


def longest_seconds(seconds_N: np.ndarray, size: int) -> float:
    """The most audio in any `size` neighbouring clips, in seconds."""
    until_N = np.concatenate([[0.0], np.cumsum(seconds_N)])
    first_N = np.maximum(np.arange(len(until_N)) - size, 0)
    return float((until_N - until_N[first_N]).max())


def next_size(clips: pa.Table, size: int | None, at_most: int) -> int:
    """The number of clips in a shard of these clips.

    Args:
        clips: A table of clips.
        size: The number in the part that these clips continue; it stays as long as it fits, as
            otherwise a corpus of varying lengths would have a part for every few thousand clips.
            None where a part begins.
        at_most: The most clips in a shard.
    """
    seconds_N = likely_durations(clips).to_numpy().astype(float)
    known_N = ~np.isnan(seconds_N)
    if not known_N.any():
        return at_most if size is None else size
    mean = float(seconds_N[known_N].mean())
    seconds_N[~known_N] = mean
    best = max(min(FEWEST, at_most), min(at_most, int(SHARD_SECONDS / mean)))
    while best > FEWEST and longest_seconds(seconds_N, best) > MAX_SECONDS:
        best = max(FEWEST, best * 3 // 4)
    if size is None or best >= LARGER * size:
        return best
    return size if longest_seconds(seconds_N, size) <= MAX_SECONDS else min(best, size)
