"""Pools of worker processes: one pool for each kind of resources asked for.

Teachers that ask for the same resources share workers, so a laptop's two cores run five experts
without one of them idling while another is behind.
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
"""Tasks given to a worker at once: the next one is there when it has finished one."""
CALLS_AT_ONCE = 2
"""Calls that a worker with a GPU runs at once: the network of one, what is around it of another."""


@dataclass(slots=True, eq=False)
class WorkerHandle:
    """One worker process, as the driver sees it."""

    worker: Any
    """The cluster's own handle."""
    pool: Pool
    asked_at: float
    """When it was asked for, by `time.monotonic`."""
    node_id: str = ""
    """Its node: the one it was asked for on, then the one it runs on; empty while unknown."""
    placed_at: float | None = None
    """When its process had started."""
    ready: bool = False
    """Whether it has loaded its teachers."""
    tasks: list[Task] = field(default_factory=list)
    """The tasks that it has been given, oldest (running) first."""
    task_began: float = 0.0
    """When the oldest of its tasks began."""


class Pool:
    """Workers with the same resources."""

    def __init__(self, resources: Resources, setups: Sequence[TeacherSetup]) -> None:
        self.resources = resources
        self.setups = list(setups)
        self.members: list[WorkerHandle] = []
        self.avoided: dict[str, str] = {}
        """Node -> why no worker of this pool is started there any more."""
        self.num_ready = 0
        self._depth = QUEUE_DEPTH + self.calls_at_once - 1
        self._by_load: list[dict[WorkerHandle, None]] = [{} for _ in range(self._depth + 1)]

    @property
    def description(self) -> str:
        """The workers' job, for messages."""
        names = ", ".join(setup.name for setup in self.setups)
        return f"teacher {names}" if names else "decoding"

    @property
    def calls_at_once(self) -> int:
        """Calls that one of its workers runs at the same time."""
        return CALLS_AT_ONCE if self.resources.num_gpus else 1

    @property
    def is_open_ended(self) -> bool:
        """Whether it takes all the room there is."""
        return not self.resources.max_workers

    def ready(self) -> list[WorkerHandle]:
        """The members that can take tasks."""
        return [member for member in self.members if member.ready]

    def free(self) -> Iterator[WorkerHandle]:
        """The ready workers that can take one more task, those with nothing to do first."""
        for load in range(self._depth):
            for member in list(self._by_load[load]):
                if not member.tasks or not member.tasks[0].alone:
                    yield member

    def mark_ready(self, member: WorkerHandle) -> None:
        """Lets a member take tasks."""
        member.ready = True
        self.num_ready += 1
        self._by_load[0][member] = None

    def give(self, member: WorkerHandle, task: Task, now: float) -> None:
        """Notes that a member has been given a task."""
        del self._by_load[len(member.tasks)][member]
        if not member.tasks:
            member.task_began = now
        member.tasks.append(task)
        self._by_load[len(member.tasks)][member] = None

    def take(self, member: WorkerHandle, task: Task, now: float) -> None:
        """Notes that a member is through with a task."""
        if task not in member.tasks:
            return
        if member.tasks[0] is task:
            member.task_began = now
        self._by_load[len(member.tasks)].pop(member, None)
        member.tasks.remove(task)
        if member in self.members:
            self._by_load[len(member.tasks)][member] = None

    def drop(self, member: WorkerHandle) -> list[Task]:
        """Forgets a member; the tasks that it had, the running one first."""
        if member in self.members:
            self.members.remove(member)
        self._by_load[len(member.tasks)].pop(member, None)
        self.num_ready -= member.ready
        member.ready = False
        tasks, member.tasks = member.tasks, []
        return tasks

    def may_settle(self, task: Task, member: WorkerHandle, *, decodes: bool) -> bool:
        """Whether a member can say if a task that failed on another worker fails here too.

        Audio may be out of reach of a whole node, so decoding is tried on another node if any.
        """
        doubter = task.doubter
        if doubter is member:
            return False
        if task.kind != "decode":
            return any(setup.name == task.teacher for setup in self.setups)
        if not decodes:
            return False
        elsewhere = any(
            other.node_id != doubter.node_id for other in self.members if doubter is not None
        )
        return not elsewhere or (doubter is not None and member.node_id != doubter.node_id)


def arrange(setups: Sequence[TeacherSetup], decode: Resources) -> tuple[list[Pool], Pool]:
    """Makes the pools of a build: all of them, and the one that decodes and commits.

    GPU pools come first: their workers take their CPU cores before CPU workers fill the rest.
    """
    pools: dict[str, Pool] = {}
    for resources in [*(setup.resources for setup in setups), decode]:
        sharing = [setup for setup in setups if setup.resources == resources]
        pools.setdefault(repr(resources), Pool(resources, sharing))
    ordered = sorted(pools.values(), key=lambda pool: -pool.resources.num_gpus)
    return ordered, pools[repr(decode)]


def check_fits(pools: Sequence[Pool], nodes: Sequence[Node]) -> None:
    """Raises a UserError where the cluster could never hold a worker of every pool at once."""
    account = Account(nodes)
    for pool in pools:
        if not pool.is_open_ended or account.place(pool.resources) is not None:
            continue
        needs = requested(pool.resources)
        needed = ", ".join(f"{name} {need:g}" for name, need in needs.items())
        names = ", ".join(setup.name for setup in pool.setups)
        who = f"a worker of teacher {names}" if names else "a worker that decodes"
        if Account(nodes).place(pool.resources) is not None:
            raise UserError(
                f"{who} asks for {needed}, which the Ray cluster has not left beside one worker of "
                "each other kind; lower the resources, or let teachers and decoding ask for the "
                "same: then they share workers"
            )
        largest = ", ".join(
            f"{name} {max((node.resources.get(name, 0) for node in nodes), default=0):g}"
            for name in needs
        )
        raise UserError(
            f"{who} asks for {needed}, more than any node of the Ray cluster has ({largest}); "
            "lower its resources, or set max_workers if an autoscaler will add such nodes"
        )
