"""What is waiting to be done, and which of it goes first.

One queue per teacher, one for decoding, one for commits. Decoding runs ahead only while its audio
has room; among the teachers the slowest goes first, so that a build ends with small pieces that
fill the last gaps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from pipeline.build.messages import ExtractSummary
from pipeline.build.pools import Pool
from pipeline.build.records import Task

UNMEASURED = float("inf")
"""Cost of a teacher that has not finished a block: it goes first, and is measured."""


class Backlog:
    """Tasks that no worker has been given.

    Args:
        teachers: Names.
        memory_bytes: Decoded audio that may lie in the object store.
    """

    def __init__(self, teachers: Iterable[str], memory_bytes: float) -> None:
        self.held_bytes = 0
        """Of audio that is decoded, or being decoded, and not yet heard by all teachers."""
        self._memory_bytes = memory_bytes
        self._queues: dict[str, deque[Task]] = {
            name: deque() for name in ("commit", "decode", *teachers)
        }
        self._cost: dict[str, float] = {}

    def add(self, task: Task) -> None:
        """A task to be done."""
        self._queues[task.queue].append(task)

    def measured(self, teacher: str, summary: ExtractSummary) -> None:
        """Learns what a teacher costs, in worker seconds per second of audio."""
        if summary.seconds:
            cost = summary.elapsed / summary.seconds
            self._cost[teacher] = 0.8 * self._cost.get(teacher, cost) + 0.2 * cost

    def extractions(self, pool: Pool) -> int:
        """Blocks that wait for a pool's teachers."""
        return sum(len(self._queues[setup.name]) for setup in pool.setups)

    def next(self, pool: Pool, *, decodes: bool) -> Task | None:
        """A pool's next task: commits, then decoding while there is room, then the slowest teacher.

        Args:
            pool: Whose worker is free.
            decodes: Whether it is the pool that decodes and commits.
        """
        names = [setup.name for setup in pool.setups]
        names.sort(key=lambda name: -self._cost.get(name, UNMEASURED))
        if decodes:
            room = self.held_bytes < self._memory_bytes
            names = ["commit", *(["decode"] if room else []), *names]
        for name in names:
            queue = self._queues[name]
            while queue:
                task = queue.popleft()
                if not task.job.abandoned:
                    return task
        return None
