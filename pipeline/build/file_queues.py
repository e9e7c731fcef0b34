"""Queues the decoding tasks of files that fill several blocks: one worker decodes a file, in order.

Each part of a file is then fetched and decoded only once per shard, whatever its format. If a
worker is lost, another one takes over its file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator

from pipeline.build.pools import WorkerHandle
from pipeline.build.records import ShardJob, Task

File = tuple[ShardJob, str]
"""A file in one shard."""


class FileQueues:
    """One queue for each file of each open shard."""

    def __init__(self) -> None:
        self._queues: dict[File, deque[Task]] = {}
        self._owner: dict[File, WorkerHandle] = {}
        self._last: dict[WorkerHandle, File] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, task: Task) -> None:
        """Adds a new or returned task at its position among the tasks of its file."""
        queue = self._queues.setdefault(_file(task), deque())
        queue.insert(bisect_right(queue, _place(task), key=_place), task)
        self._count += 1

    def candidates(self, member: WorkerHandle) -> Iterator[Task]:
        """The next task of the worker's current file, then of files without a worker."""
        if not self._queues:
            return
        last = self._last.get(member)
        if last in self._queues and self._owner.get(last) is member and (task := self._first(last)):
            yield task
        for file in list(self._queues):
            owner = self._owner.get(file)
            if (owner is None or not owner.ready) and (task := self._first(file)):
                yield task

    def take(self, task: Task, member: WorkerHandle) -> Task:
        """Assigns a candidate and its file to a worker."""
        file = _file(task)
        queue = self._queues[file]
        assert queue.popleft() is task
        self._count -= 1
        self._owner[file], self._last[member] = member, file
        if not queue:
            self._forget(file)
        return task

    def _first(self, file: File) -> Task | None:
        queue = self._queues[file]
        while queue and queue[0].job.abandoned:
            queue.popleft()
            self._count -= 1
        if not queue:
            self._forget(file)
            return None
        return queue[0]

    def _forget(self, file: File) -> None:
        self._queues.pop(file, None)
        self._owner.pop(file, None)


def _place(task: Task) -> tuple[int, int]:
    assert task.block is not None
    return task.block.number, task.block.first


def _file(task: Task) -> File:
    assert task.block is not None
    return task.job, task.block.file
