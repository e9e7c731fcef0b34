"""A random order for corpora that do not fit into memory: shards shuffled, clips within a window.

An order over all clips makes every worker open every shard and read a whole row group, to check it,
for each clip. Here each worker has shards of its own. It takes a few of them at a time, chosen at
random, and draws their clips in random order, so each byte of an epoch is read about once. The
price: clips of one batch come from some thousand clips, not from the whole corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from student.config import DataConfig

WINDOW_SHARDS = 16
"""Shards whose clips a worker shuffles together: 4,096 clips of a corpus' usual shards."""


MANY_CLIPS = 1 << 15
"""Clips above which blocks are shuffled unless the recipe says otherwise: 128 shards, as many as a
reader keeps open."""


def shuffles_blocks(data: DataConfig, num_clips: int) -> bool:
    """Whether a corpus of that many clips is shuffled by blocks."""
    return data.shuffle == "blocks" or (data.shuffle == "auto" and num_clips > MANY_CLIPS)


class BlockShuffle(Sampler[int]):
    """Indices such that batch k of an epoch belongs to lane k modulo the number of lanes.

    A lane is one worker of one process: accelerate hands batches to processes by turns, and a data
    loader hands them to its workers by turns. The order depends on seed, epoch, batch size and
    lanes alone, so a run that is resumed sees what it would have seen.

    Args:
        shards: Shard of each example; those of one shard are stored together.
        batch_size: Examples of one batch of one process.
        lanes: Workers of all processes.
        seed: Seed that decides the order, together with the epoch.
        lengths: Length of each example; given, the clips of a window are batched by similar length.
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
        """The batches of one lane; what fills none goes to `left`."""
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
