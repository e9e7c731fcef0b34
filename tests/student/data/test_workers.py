"""Workers prepare examples with one thread each."""

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


class Threads(Dataset):
    """Products as examples: how many threads libraries may use, and how many do the computing."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        with one_thread():
            return self._count(index)

    def _count(self, index: int) -> tuple[int, int, int]:
        matrix = np.random.default_rng(index).standard_normal((700, 700)).astype(np.float32)
        before = ticks()
        for _ in range(20):
            float((matrix @ matrix).sum())
        used = {task: total - before.get(task, 0) for task, total in ticks().items()}
        # Threads that move data need a few hundredths of a second, those that share products half.
        busy = [task for task, count in used.items() if count > max(used.values()) / 4]
        allowed = max(pool["num_threads"] for pool in threadpool_info())
        return max(allowed, torch.get_num_threads()), len(busy), os.getpid()


def ticks() -> dict[str, int]:
    """Thread -> hundredths of a second that it has computed for."""
    used = {}
    for task in Path("/proc/self/task").iterdir():
        used[task.name] = int((task / "stat").read_text().rpartition(")")[2].split()[11])
    return used


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
def test_a_worker_has_one_thread_to_compute_with() -> None:
    shared = SharedBatches(
        Threads(), 1, data=DataConfig(workers=2), collate=lambda rows: rows[0],
        process=PartialState(cpu=True),
    )  # fmt: skip
    rows = [row for row, _ in shared]
    assert [allowed for allowed, _, _ in rows] == [1] * 6
    # In the first example of each worker, OpenBLAS's other threads spin once and go to sleep.
    assert max(busy for _, busy, _ in rows[2:]) <= 1
    assert len({process for *_, process in rows}) == 2
    assert os.getpid() not in {process for *_, process in rows}


def test_the_trainer_itself_prepares_with_one_thread_and_gets_its_threads_back() -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with one_thread():
        assert set(threads()) == {1}
    assert threads() == before
