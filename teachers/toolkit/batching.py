"""Groups windows into batches by padded length, and halves batches that run out of memory.

The amount of audio that fits depends on the card and on other processes. The budget of a batch is
therefore only a starting value: a batch that runs out of memory is repeated in halves, and the
budget is halved permanently.
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
"""Phrases in error messages of torch, cuBLAS and onnxruntime."""


class BatchBudget:
    """Padded audio per forward pass.

    Args:
        seconds: Initial budget in seconds.
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
        """Runs all windows in batches of similar length, and returns the results in order.

        Args:
            lengths: Length of each window, in samples or frames.
            forward: Positions of a batch's windows -> their results.
            per_second: Samples or frames in a second.

        Raises:
            Exception: the error of `forward`, unless a batch of several windows ran out of memory.
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
        """Runs `count` frames of equal size in slices, and returns the results.

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
        """Lowers the budget to half of `seconds`."""
        self.seconds = seconds / 2
        log.warning("a batch of %.1f s ran out of memory; batches of %.1f s", seconds, seconds / 2)


def batches(lengths: Sequence[float], budget: float) -> Iterator[list[int]]:
    """Groups positions into batches of similar length, each of at most `budget` including padding.

    A window longer than the budget is a batch of its own.
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
    """Whether an error states that the device or the process ran out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)


def free_device_memory() -> None:
    """Releases the memory that torch caches on the GPU, if torch is loaded."""
    import sys

    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _unless_out_of_memory(
    forward: Callable[[Part], Result], part: Part, *, can_be_cut: bool
) -> Result | None:
    """The result of a part; None if it has to be split. Returning releases the error's frames,
    which hold memory."""
    try:
        return forward(part)
    except Exception as error:
        if not (can_be_cut and is_out_of_memory(error)):
            raise
    free_device_memory()
    return None
