"""Forms batches of clips of similar length, which need less padding.

The standard length-grouped sampler uses the global generator, so a run that is resumed in its
second epoch would see another order. This one depends only on seed and epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class ByLength(Sampler[int]):
    """Indices in random order, such that each accumulated batch is of similar lengths.

    Args:
        lengths: Length of each example, in any unit.
        batch_size: Examples of an accumulated batch.
        seed: Seed of the order, together with the epoch.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int) -> None:
        self._lengths = list(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader when an epoch begins."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self._seed + self._epoch)
        return iter(
            get_length_grouped_indices(self._lengths, self._batch_size, generator=generator)
        )
