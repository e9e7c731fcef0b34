"""The queues of waiting tasks, and the order in which they are run.

There is one queue per teacher, one for decoding and one for commits. Decoding runs ahead only as
far as the teachers' speeds require (`pipeline.build.lookahead`), and while its audio fits on the
worker's node. The slowest teacher has priority, so that the short tasks at
the end keep all workers busy.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping

from pipeline.build.file_queues import FileQueues
from pipeline.build.messages import DecodeSummary, ExtractSummary
from pipeline.build.pools import Pool, WorkerHandle
from pipeline.build.records import Block, ShardJob, Task

UNMEASURED = math.inf
"""Cost of a teacher that has not finished a block: it has priority, so that it is measured."""


class Backlog:
    """The tasks that are not assigned to a worker.

    Args:
        teachers: Names of the teachers.
    """

    def __init__(self, teachers: Iterable[str]) -> None:
        self.audio_bytes: Counter[str] = Counter()
        """Node -> bytes of audio that is being decoded or waits for a teacher."""
        self.row_bytes: Counter[str] = Counter()
        """Node -> bytes of rows that are not yet committed."""
        self.costs: dict[str, float] = {}
        """Teacher, or "decode" -> measured worker seconds per second of audio."""
        self.commit_seconds = 0.0
        """Measured worker seconds of a commit; 0 before the first one."""
        self.block_seconds = 0.0
        """Mean length of the decoded blocks in seconds; 0 before the first one."""
        self.blocks_ahead: float = math.inf
        """Maximum number of blocks whose audio is decoded or being decoded."""
        self.decoded: set[Block] = set()
        """These blocks."""
        self._store_bytes: dict[str, float] = {}
        self._queues: dict[str, deque[Task]] = {
            name: deque() for name in ("commit", "decode", *teachers)
        }
        self._files = FileQueues()
        self._delayed: list[tuple[float, int, Task]] = []
        self._order = itertools.count()
        self._doubted: list[Task] = []

    def add(self, task: Task) -> None:
        """Adds a task."""
        if task.kind == "decode" and task.block is not None and task.block.file:
            self._files.add(task)
        else:
            self._queues[task.queue].append(task)

    def add_later(self, task: Task, due: float) -> None:
        """Adds a task that is not run before the time `due` (`time.monotonic`)."""
        heapq.heappush(self._delayed, (due, next(self._order), task))

    def add_unconfirmed(self, task: Task) -> None:
        """Adds a task that must run in another process than `failed_on`."""
        self._doubted.append(task)

    @property
    def unconfirmed(self) -> list[Task]:
        """The tasks that wait for a second process."""
        self._doubted = [task for task in self._doubted if not task.job.abandoned]
        return self._doubted

    def release_due(self, now: float) -> None:
        """Moves the tasks whose pause is over to their queues."""
        while self._delayed and self._delayed[0][0] <= now:
            self.add(heapq.heappop(self._delayed)[2])

    def __len__(self) -> int:
        waiting = sum(map(len, self._queues.values())) + len(self._files)
        return waiting + len(self._delayed) + len(self.unconfirmed)

    def set_room(self, store_bytes: Mapping[str, float]) -> None:
        """Sets the maximum number of bytes on each node, by its id."""
        self._store_bytes = dict(store_bytes)

    def measured(self, queue: str, summary: DecodeSummary | ExtractSummary) -> None:
        """Updates the cost of a teacher or of decoding."""
        if summary.seconds:
            cost = summary.elapsed / summary.seconds
            self.costs[queue] = _smoothed(self.costs.get(queue), cost)
            if queue == "decode":
                self.block_seconds = _smoothed(self.block_seconds, summary.seconds)

    def measured_commit(self, elapsed: float) -> None:
        """Updates the worker seconds of a commit."""
        self.commit_seconds = _smoothed(self.commit_seconds, elapsed)

    def extractions(self, pool: Pool) -> int:
        """The number of blocks that wait for a pool's teachers."""
        return sum(len(self._queues[setup.name]) for setup in pool.setups)

    def next(
        self, member: WorkerHandle, *, decodes: bool, oldest: ShardJob | None, idle: bool
    ) -> Task | None:
        """Returns a worker's next task: commits, then decoding while there is room, then the
        slowest teacher.

        Args:
            member: The worker.
            decodes: Whether its pool decodes and commits.
            oldest: The job that was opened first: it may decode even if other jobs must wait.
            idle: Whether all workers of the build are idle, so that waiting is useless.
        """
        for place, task in enumerate(self.unconfirmed):
            if member.pool.can_confirm(task, member, decodes=decodes):
                return self.unconfirmed.pop(place)
        names = [setup.name for setup in member.pool.setups]
        names.sort(key=lambda name: -self.costs.get(name, UNMEASURED))
        if decodes:
            names = ["commit", "decode", *names]
        if member.tasks and any(self._waits_for_empty_worker(name) for name in names):
            return None
        for name in names:
            queue = self._queues[name]
            if name == "decode":
                for task in self._files.candidates(member):
                    if self._has_room(member.node_id, task, oldest, idle):
                        return self._files.take(task, member)
            while queue:
                task = queue[0]
                if task.job.abandoned:
                    queue.popleft()
                    continue
                if name == "decode" and not self._has_room(member.node_id, task, oldest, idle):
                    break
                return queue.popleft()
        return None

    def _waits_for_empty_worker(self, name: str) -> bool:
        queue = self._queues[name]
        return bool(queue) and queue[0].alone and not queue[0].job.abandoned

    def _has_room(self, node_id: str, task: Task, oldest: ShardJob | None, idle: bool) -> bool:
        limit = self._store_bytes.get(node_id, math.inf)
        audio = self.audio_bytes[node_id]
        if idle:
            return True
        if len(self.decoded) >= self.blocks_ahead:
            return False
        if audio + self.row_bytes[node_id] < limit:
            return True
        return task.job is oldest and audio < limit / 2


def _smoothed(average: float | None, value: float) -> float:
    """An exponential moving average, which starts with the first value."""
    return 0.8 * average + 0.2 * value if average else value
