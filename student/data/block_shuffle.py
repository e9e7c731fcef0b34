"""A random order for corpora that do not fit into memory: shuffles shards, and clips within a
window.

With a random order over all clips, every worker would open every shard and read a whole row group
for each clip, to verify it. Here each worker has its own shards. It takes a few random shards at a
time and draws their clips in random order, so each byte is read about once per epoch. The
disadvantage: a batch is drawn from a few thousand clips, not from the whole corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from student.config import DataConfig

WINDOW_SHARDS = 16
"""Number of shards whose clips a worker shuffles together: 4,096 clips with shards of 256."""


MANY_CLIPS = 1 << 15
"""Number of clips above which blocks are shuffled by default: 128 shards, as many as a reader keeps
open."""


def shuffles_blocks(data: DataConfig, num_clips: int) -> bool:
    """Whether a corpus of that many clips is shuffled by blocks."""
    return data.shuffle == "blocks" or (data.shuffle == "auto" and num_clips > MANY_CLIPS)


class BlockShuffle(Sampler[int]):
    """Indices such that batch k of an epoch belongs to lane k modulo the number of lanes.

    A lane is one worker of one process: accelerate distributes batches to processes in turn, and a
    data loader distributes them to its workers in turn. The order depends only on seed, epoch,
    batch size and lanes, so a resumed run sees the same batches.

    Args:
        shards: Shard of each example; examples of one shard are stored together.
        batch_size: Examples of one batch of one process.
        lanes: Workers of all processes.
        seed: Seed of the order, together with the epoch.
        lengths: Length of each example. If given, clips of a window are batched by similar length.
        window: Shards that a lane shuffles together.
    """

    def __init__(
        self,
        shards: np.ndarray,
        *,
        batch_size: int,
        lanes: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        window: int = WINDOW_SHARDS,
    ) -> None:
        self._by_shard = np.argsort(shards, kind="stable").astype(np.int32)
        _, counts = np.unique(shards, return_counts=True)
        self._bounds = np.concatenate([[0], np.cumsum(counts)])
        self._batch_size = batch_size
        self._lanes = lanes
        self._seed = seed
        self._lengths = lengths
        self._window = window
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._by_shard)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader when an epoch begins."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        shards = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._bounds) - 1)
        left: list[int] = []
        lanes = [
            self._lane(place, shards[place :: self._lanes], left) for place in range(self._lanes)
        ]
        while lanes:
            going = []
            for lane in lanes:
                batch = next(lane, None)
                if batch is not None:
                    yield from batch
                    going.append(lane)
            lanes = going
        yield from np.random.default_rng([self._seed, self._epoch]).permutation(left).tolist()

    def _lane(self, number: int, shards: np.ndarray, left: list[int]) -> Iterator[list[int]]:
        """Yields the batches of one lane; remaining clips are added to `left`."""
        rng = np.random.default_rng([self._seed, self._epoch, number])
        waiting: list[int] = []
        for first in range(0, len(shards), self._window):
            chosen = shards[first : first + self._window]
            blocks = [
                self._by_shard[self._bounds[place] : self._bounds[place + 1]] for place in chosen
            ]
            waiting += self._shuffled(np.concatenate(blocks), rng)
            whole = len(waiting) // self._batch_size * self._batch_size
            for begin in range(0, whole, self._batch_size):
                yield waiting[begin : begin + self._batch_size]
            waiting = waiting[whole:]
        left += waiting

    def _shuffled(self, indices: np.ndarray, rng: np.random.Generator) -> list[int]:
        if self._lengths is None:
            return rng.permutation(indices).tolist()
        lengths = [self._lengths[place] for place in indices]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        order = get_length_grouped_indices(lengths, self._batch_size, generator=generator)
        return indices[order].tolist()
