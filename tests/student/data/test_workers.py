"""Tests that workers prepare examples with one thread each."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from threadpoolctl import threadpool_info
from torch.utils.data import Dataset

from student.config import DataConfig
from student.data.workers import one_thread
from student.training.sharing import SharedBatches


class ThreadCounts(Dataset):
    """A data set whose items count the allowed and the busy threads during matrix products."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        with one_thread():
            return self._count(index)

    def _count(self, index: int) -> tuple[int, int, int]:
        matrix = np.random.default_rng(index).standard_normal((700, 700)).astype(np.float32)
        before = cpu_ticks()
        for _ in range(20):
            float((matrix @ matrix).sum())
        used = {task: total - before.get(task, 0) for task, total in cpu_ticks().items()}
        # Threads that only move data take a few hundredths of a second, computing threads half.
        busy = [task for task, count in used.items() if count > max(used.values()) / 4]
        allowed = max(pool["num_threads"] for pool in threadpool_info())
        return max(allowed, torch.get_num_threads()), len(busy), os.getpid()


def cpu_ticks() -> dict[str, int]:
    """Returns thread -> its CPU time in hundredths of a second."""
    used = {}
    for task in Path("/proc/self/task").iterdir():
        used[task.name] = int((task / "stat").read_text().rpartition(")")[2].split()[11])
    return used


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
def test_worker_computes_with_one_thread() -> None:
    shared = SharedBatches(
        ThreadCounts(), 1, data=DataConfig(workers=2), collate=lambda rows: rows[0],
        process=PartialState(cpu=True),
    )  # fmt: skip
    rows = [row for row, _ in shared]
    assert [allowed for allowed, _, _ in rows] == [1] * 6
    # In the first example of each worker, OpenBLAS's other threads spin before they sleep.
    assert max(busy for _, busy, _ in rows[2:]) <= 1
    assert len({process for *_, process in rows}) == 2
    assert os.getpid() not in {process for *_, process in rows}


def test_one_thread_restores_the_number_of_threads() -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with one_thread():
        assert set(threads()) == {1}
    assert threads() == before
