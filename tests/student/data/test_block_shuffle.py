"""Tests for the block shuffle: coverage, locality of reads, mixing, and resuming."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from torch.utils.data import BatchSampler, DataLoader

from student.config import DataConfig
from student.data.block_shuffle import BlockShuffle
from student.train import train
from tests.student.conftest import TASKS, ToyData

SHARDS, PER_SHARD, BATCH, GROUP = 960, 32, 4, 8
EXAMPLES = np.repeat(np.arange(SHARDS), PER_SHARD)


def sampler(world_size: int, workers: int, **options: object) -> BlockShuffle:
    return BlockShuffle(
        EXAMPLES,
        batch_size=BATCH,
        lanes=world_size * workers,
        seed=3,
        **options,  # pyright: ignore
    )


def batches(order: BlockShuffle, world_size: int) -> list[list[list[int]]]:
    """Returns the batches of each process, as accelerate distributes them."""
    whole = BatchSampler(order, BATCH, drop_last=False)
    return [list(BatchSamplerShard(whole, world_size, rank)) for rank in range(world_size)]


@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (1, 4), (2, 3), (8, 8)])
def test_each_epoch_has_every_example_once_in_another_order(world_size: int, workers: int) -> None:
    order = sampler(world_size, workers)
    first = list(order)
    assert sorted(first) == list(range(len(EXAMPLES)))
    assert first == list(order)
    order.set_epoch(1)
    assert sorted(order) == sorted(first)
    assert list(order) != first


@pytest.mark.parametrize(("world_size", "workers"), [(1, 4), (2, 3), (2, 8)])
def test_each_shard_is_read_by_about_one_worker(world_size: int, workers: int) -> None:
    """In a plain random order, each worker reads almost one row group for each clip."""

    def groups_read(per_rank: list[list[list[int]]]) -> tuple[float, float]:
        readers: dict[int, set] = defaultdict(set)
        groups = set()
        for rank, rank_batches in enumerate(per_rank):
            for number, batch in enumerate(rank_batches):
                for example in batch:
                    readers[int(EXAMPLES[example])].add((rank, number % workers))
                    groups.add((example // GROUP, rank, number % workers))
        return len(groups) / (len(EXAMPLES) / GROUP), np.mean([*map(len, readers.values())]).item()

    blocks, readers = groups_read(batches(sampler(world_size, workers, window=4), world_size))
    plain = np.random.default_rng(0).permutation(len(EXAMPLES)).reshape(-1, BATCH)
    everywhere, _ = groups_read([plain[rank::world_size].tolist() for rank in range(world_size)])
    assert blocks < 1.3
    assert readers < 1.3
    assert everywhere > 2.5


def test_clips_of_a_window_are_mixed() -> None:
    first = next(iter(batches(sampler(1, 1), 1)))
    shards = [len({int(EXAMPLES[example]) for example in batch}) for batch in first]
    assert np.mean(shards) > 3.5  # of 4
    everything = EXAMPLES[np.concatenate(first)]
    assert len(set(everything[:512].tolist())) == 16
    assert np.abs(np.corrcoef(np.arange(len(everything)), everything)[0, 1]) < 0.2


def test_examples_of_similar_length_are_batched_together() -> None:
    lengths = np.random.default_rng(1).integers(10, 500, len(EXAMPLES)).tolist()
    order = list(sampler(1, 2, lengths=lengths))
    assert sorted(order) == list(range(len(EXAMPLES)))
    rows = np.array(lengths)[np.array(order).reshape(-1, BATCH)]
    assert np.mean(rows.max(1) - rows.min(1)) < 40  # 300 by chance


def test_resumed_epoch_continues_in_the_same_order() -> None:
    loader = DataLoader(EXAMPLES.tolist(), batch_sampler=BatchSampler(sampler(1, 2), BATCH, False))  # pyright: ignore
    whole = [batch.tolist() for batch in loader]
    resumed = [batch.tolist() for batch in skip_first_batches(loader, 37)]
    assert resumed == whole[37:]


def test_training_with_block_shuffle_and_workers_runs(toy_data: ToyData, tmp_path: Path) -> None:
    options = toy_data.options(
        tmp_path / "run", align=None,
        data=DataConfig(tasks=TASKS, validation=0.25, shuffle="blocks", workers=2),
    )  # fmt: skip
    report = train(options)
    assert set(report) == {"before", "joint"}
    assert np.isfinite(report["joint"]["answer_loss"])
