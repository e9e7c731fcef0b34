"""Divides the batches of validation and calibration among the processes of a training.

All processes get equally many batches, because every forward pass of a sharded model needs all of
them; repeated batches that fill up the last round are not counted. Sums are added over the
processes, and rows are gathered for metrics that need all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, reduce
from torch import Tensor, nn
from torch.utils.data import DataLoader

from student.batch import Batch, PreparedExample
from student.config import DataConfig

# Legend: M rows of one process, D columns.


class SharedBatches:
    """One process's share of the batches of a dataset, in order.

    Args:
        dataset: Examples.
        batch_size: Number of examples per batch.
        data: The recipe's data section, which sets the number of workers.
        collate: Examples -> batch.
        process: This process.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        data: DataConfig,
        collate: Callable[[list[PreparedExample]], Batch],
        process: PartialState,
    ) -> None:
        starts = range(0, len(dataset), batch_size)
        batches = [list(range(start, min(start + batch_size, len(dataset)))) for start in starts]
        own = batches[process.process_index :: process.num_processes]
        self._num_counted = len(own)
        rounds = -(-len(batches) // process.num_processes)
        own += batches[: rounds - len(own)]
        self._loader = DataLoader(
            dataset,
            batch_sampler=own,
            collate_fn=collate,
            num_workers=min(data.workers, len(own)),
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Batch, bool]]:
        """Yields batches, and whether each counts."""
        for place, batch in enumerate(self._loader):
            yield batch, place < self._num_counted


def sum_over_processes(values: Sequence[Tensor]) -> list[Tensor]:
    """Sums tensors over all processes, on the CPU."""
    process = PartialState()
    flat = torch.cat([value.detach().double().flatten().cpu() for value in values])
    if process.num_processes > 1:
        whole: Any = reduce(flat.to(process.device))
        flat = whole.cpu()
    pieces = flat.split([value.numel() for value in values])
    return [piece.view(value.shape) for piece, value in zip(pieces, values, strict=True)]


def rows_of_all_processes(rows_MD: Tensor) -> Tensor:
    """Gathers the rows of all processes, on the CPU."""
    process = PartialState()
    if process.num_processes == 1:
        return rows_MD.cpu()
    count: Any = gather(torch.tensor([len(rows_MD)], device=process.device))
    longest = int(count.max())
    padded_MD = rows_MD.new_zeros(longest, *rows_MD.shape[1:], device=process.device)
    padded_MD[: len(rows_MD)] = rows_MD.to(process.device)
    whole: Any = gather(padded_MD)
    pieces = whole.cpu().split(longest)
    return torch.cat([piece[:size] for piece, size in zip(pieces, count.tolist(), strict=True)])


def share_buffers(module: nn.Module) -> None:
    """Copies the buffers of the first process, which has loaded them, to all processes."""
    device = PartialState().device
    for buffer in module.buffers():
        value: Any = broadcast(buffer.detach().to(device))
        buffer.copy_(value)
