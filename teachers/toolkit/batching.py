"""Batches by padded length, and what happens when one does not fit into the device's memory.

How much audio fits depends on the card and on what else lies on it. So the budget of a batch is a
beginning: a batch that runs out of memory is run again in halves, and the budget stays at half.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

OUT_OF_MEMORY = ("out of memory", "cublas_status_alloc_failed", "failed to allocate memory")
"""Words of errors of torch, cuBLAS and onnxruntime."""


class BatchBudget:
    """Padded audio per forward pass.

    Args:
        seconds: Seconds to begin with.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def run(
        self,
        lengths: Sequence[int],
        forward: Callable[[list[int]], Sequence[Result]],
        *,
        per_second: float,
    ) -> list[Result]:
        """Results of all windows, in their order, by batches of like length.

        Args:
            lengths: Length of each window, in samples or frames.
            forward: Positions of a batch's windows -> their results.
            per_second: Samples or frames in a second.

        Raises:
            Exception: what `forward` raised, lack of memory for more than one window left out.
        """
        results: dict[int, Result] = {}
        waiting = deque(batches(lengths, self.seconds * per_second))
        while waiting:
            batch = waiting.popleft()
            made = _unless_out_of_memory(forward, batch, can_be_cut=len(batch) > 1)
            if made is not None:
                results.update(zip(batch, made, strict=True))
                continue
            self._halve(lengths[batch[0]] * len(batch) / per_second)
            rest = [place for each in (batch, *waiting) for place in each]
            cut = batches([lengths[place] for place in rest], self.seconds * per_second)
            waiting = deque([rest[place] for place in each] for each in cut)
        return [results[place] for place in range(len(lengths))]

    def run_slices(
        self, count: int, forward: Callable[[slice], Result], *, per_second: float
    ) -> list[Result]:
        """Results of `count` frames that are all alike, by slices of them.

        Args:
            count: Frames.
            forward: A slice of the frames -> its result.
            per_second: Frames in a second.
        """
        results, first = [], 0
        while first < count:
            size = max(1, round(self.seconds * per_second))
            part = slice(first, min(first + size, count))
            made = _unless_out_of_memory(forward, part, can_be_cut=part.stop - part.start > 1)
            if made is None:
                self._halve((part.stop - part.start) / per_second)
                continue
            results.append(made)
            first = part.stop
        return results

    def _halve(self, seconds: float) -> None:
        """Remembers that so many padded seconds are too many."""
        self.seconds = seconds / 2
        log.warning("a batch of %.1f s ran out of memory; batches of %.1f s", seconds, seconds / 2)


def batches(lengths: Sequence[float], budget: float) -> Iterator[list[int]]:
    """Positions in batches of like length, each of at most `budget` with its padding.

    A piece longer than the budget is a batch of its own.
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the process, has no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)


def free_device_memory() -> None:
    """Gives back what torch keeps on the GPU for later; nothing where torch is not in use."""
    import sys

    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _unless_out_of_memory(
    forward: Callable[[Part], Result], part: Part, *, can_be_cut: bool
) -> Result | None:
    """The result of a part; None if it has to be cut. The error's frames hold memory until then."""
    try:
        return forward(part)
    except Exception as error:
        if not (can_be_cut and is_out_of_memory(error)):
            raise
    free_device_memory()
    return None
