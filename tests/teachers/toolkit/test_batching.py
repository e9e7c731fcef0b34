"""Tests for batches that exceed memory: they are halved, and the budget keeps the smaller size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from teachers.toolkit.batching import BatchBudget, is_out_of_memory


def test_batch_that_exceeds_memory_is_halved_without_losing_results():
    batch_sizes: list[int] = []

    def forward(batch: list[int]) -> list[int]:
        batch_sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [10 * index for index in batch]

    budget = BatchBudget(10.0)
    assert budget.run([100] * 10, forward, per_second=100) == [10 * index for index in range(10)]
    assert batch_sizes[:3] == [10, 5, 2]
    assert budget.seconds == 2.5
    assert budget.run([100] * 4, forward, per_second=100) == [0, 10, 20, 30]
    assert batch_sizes[-2:] == [2, 2], "a batch size that had exceeded memory was tried again"


def test_slices_that_exceed_memory_are_halved():
    def forward(part: slice) -> np.ndarray:
        if part.stop - part.start > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return np.arange(100)[part]

    budget = BatchBudget(1.0)
    parts = budget.run_slices(100, forward, per_second=100)
    assert np.concatenate(parts).tolist() == list(range(100))
    assert budget.seconds == 0.25


def test_single_window_that_exceeds_memory_raises():
    def forward(batch: list[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        BatchBudget(4.0).run([100] * 4, forward, per_second=100)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("the clip's text mentions: out of memory"), False),
    ],
)
def test_is_out_of_memory_recognises_errors(error: Exception, expected: bool):
    assert is_out_of_memory(error) is expected
