"""Pools of worker processes: one pool for each set of requested resources.

Teachers that request the same resources share workers, so that five experts keep both cores of a
laptop busy even if one of them is slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from manifests.errors import UserError
from pipeline.build.backend import Node
from pipeline.build.placement import Account, requested
from pipeline.build.records import Task
from pipeline.build.setup import TeacherSetup
from pipeline.config import Resources

QUEUE_DEPTH = 2
"""Number of tasks queued at a worker, so that it never waits for the next one."""
CALLS_AT_ONCE = 2
"""Number of parallel calls of a worker with a GPU: the network of one, and the processing around
the network of another."""


@dataclass(slots=True, eq=False)
class WorkerHandle:
    """The driver's record of one worker process."""

    worker: Any
    """The cluster's handle."""
    pool: Pool
    asked_at: float
    """Time of the request (`time.monotonic`)."""
    node_id: str = ""
    """Its node: first the requested one, then the actual one; empty while unknown."""
    placed_at: float | None = None
    """Time at which its process had started."""
    ready: bool = False
    """Whether it has loaded its teachers."""
    tasks: list[Task] = field(default_factory=list)
    """Its tasks, the oldest (running) one first."""
    task_began: float = 0.0
    """Time at which the oldest of its tasks began."""


class Pool:
    """Workers with the same resources."""

    def __init__(self, resources: Resources, setups: Sequence[TeacherSetup]) -> None:
        self.resources = resources
        self.setups = list(setups)
        self.members: list[WorkerHandle] = []
        self.avoided: dict[str, str] = {}
        """Node -> reason why no worker of this pool is started there any more."""
        self.num_ready = 0
        self.depth = QUEUE_DEPTH + self.calls_at_once - 1
        """Maximum number of tasks at a worker."""
        self._by_load: list[dict[WorkerHandle, None]] = [{} for _ in range(self.depth + 1)]

    @property
    def description(self) -> str:
        """Describes the job of the workers, for messages."""
        names = ", ".join(setup.name for setup in self.setups)
        return f"teacher {names}" if names else "decoding"

    @property
    def calls_at_once(self) -> int:
        """Number of calls that one of its workers runs in parallel."""
        return CALLS_AT_ONCE if self.resources.num_gpus else 1

    @property
    def is_open_ended(self) -> bool:
        """Whether the pool uses all available resources."""
        return not self.resources.max_workers

    def ready(self) -> list[WorkerHandle]:
        """The workers that have loaded their teachers."""
        return [member for member in self.members if member.ready]

    def free(self) -> Iterator[WorkerHandle]:
        """The ready workers that can take one more task, idle ones first."""
        for load in range(self.depth):
            for member in list(self._by_load[load]):
                if not member.tasks or not member.tasks[0].alone:
                    yield member

    def mark_ready(self, member: WorkerHandle) -> None:
        """Marks a worker as ready for tasks."""
        member.ready = True
        self.num_ready += 1
        self._by_load[0][member] = None

    def give(self, member: WorkerHandle, task: Task, now: float) -> None:
        """Records that a worker got a task."""
        del self._by_load[len(member.tasks)][member]
        if not member.tasks:
            member.task_began = now
        member.tasks.append(task)
        self._by_load[len(member.tasks)][member] = None

    def take(self, member: WorkerHandle, task: Task, now: float) -> None:
        """Records that a worker finished a task."""
        if task not in member.tasks:
            return
        if member.tasks[0] is task:
            member.task_began = now
        self._by_load[len(member.tasks)].pop(member, None)
        member.tasks.remove(task)
        if member in self.members:
            self._by_load[len(member.tasks)][member] = None

    def drop(self, member: WorkerHandle) -> list[Task]:
        """Removes a worker, and returns its tasks, the running one first."""
        if member in self.members:
            self.members.remove(member)
        self._by_load[len(member.tasks)].pop(member, None)
        self.num_ready -= member.ready
        member.ready = False
        tasks, member.tasks = member.tasks, []
        return tasks

    def can_confirm(self, task: Task, member: WorkerHandle, *, decodes: bool) -> bool:
        """Whether a worker can confirm a task that failed on another worker.

        Audio may be unreachable from a whole node, so decoding is confirmed on another node if
        there is one.
        """
        failed_on = task.failed_on
        if failed_on is member:
            return False
        if task.kind != "decode":
            return any(setup.name == task.teacher for setup in self.setups)
        if not decodes:
            return False
        elsewhere = any(
            other.node_id != failed_on.node_id for other in self.members if failed_on is not None
        )
        return not elsewhere or (failed_on is not None and member.node_id != failed_on.node_id)


def arrange(setups: Sequence[TeacherSetup], decode: Resources) -> tuple[list[Pool], Pool]:
    """Creates the pools of a build; returns all of them, and the one that decodes and commits.

    GPU pools come first, so that their workers get their CPU cores before CPU workers use the rest.
    """
    pools: dict[str, Pool] = {}
    for resources in [*(setup.resources for setup in setups), decode]:
        sharing = [setup for setup in setups if setup.resources == resources]
        pools.setdefault(repr(resources), Pool(resources, sharing))
    ordered = sorted(pools.values(), key=lambda pool: -pool.resources.num_gpus)
    return ordered, pools[repr(decode)]


def check_fits(pools: Sequence[Pool], nodes: Sequence[Node]) -> None:
    """Raises a UserError if the cluster can never run a worker of every pool at the same time."""
    account = Account(nodes)
    for pool in pools:
        if not pool.is_open_ended or account.place(pool.resources) is not None:
            continue
        needs = requested(pool.resources)
        needed = ", ".join(f"{name} {need:g}" for name, need in needs.items())
        names = ", ".join(setup.name for setup in pool.setups)
        worker = f"a worker of teacher {names}" if names else "a worker that decodes"
        if Account(nodes).place(pool.resources) is not None:
            raise UserError(
                f"{worker} asks for {needed}, which the Ray cluster has not left beside one worker "
                "of each other kind; lower the resources, or let teachers and decoding request the "
                "same: then they share workers"
            )
        largest = ", ".join(
            f"{name} {max((node.resources.get(name, 0) for node in nodes), default=0):g}"
            for name in needs
        )
        raise UserError(
            f"{worker} asks for {needed}, more than any node of the Ray cluster has ({largest}); "
            "lower its resources, or set max_workers if an autoscaler will add such nodes"
        )
