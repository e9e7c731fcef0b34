"""Pools of worker processes on a Ray cluster: one pool for each kind of resources asked for.

Teachers that ask for the same resources share workers, so a laptop's two cores run five experts
without one of them idling while another is behind. A pool grows while the cluster has room and
replaces workers that died; which tasks those had is the scheduler's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError

from manifests.errors import UserError
from pipeline.build.setup import TeacherSetup
from pipeline.build.worker import Worker
from pipeline.config import Resources

QUEUE_DEPTH = 2
"""Tasks given to a worker at once: the next one is there when it has finished one."""


@dataclass(slots=True, eq=False)
class WorkerHandle:
    """One worker process, as the driver sees it."""

    actor: Any
    ready: bool = False
    tasks: list[Any] = field(default_factory=list)
    """What it has been given, oldest (running) first."""


class Pool:
    """Workers with the same resources."""

    def __init__(self, resources: Resources, setups: Sequence[TeacherSetup]) -> None:
        self.resources = resources
        self.setups = list(setups)
        self.members: list[WorkerHandle] = []
        self.starting: dict[ray.ObjectRef, WorkerHandle] = {}

    def __repr__(self) -> str:
        names = ", ".join(setup.name for setup in self.setups) or "decoding"
        return f"{len(self.members)} workers for {names}"

    def free(self) -> WorkerHandle | None:
        """The ready worker with the shortest queue, if one can take a task."""
        ready = [member for member in self.members if member.ready]
        best = min(ready, key=lambda member: len(member.tasks), default=None)
        return best if best is not None and len(best.tasks) < QUEUE_DEPTH else None

    def started(self, ref: ray.ObjectRef) -> float:
        """Notes that a worker has loaded its teachers; the seconds that took.

        Raises:
            UserError: what a teacher raised while loading.
            RayError: the worker died.
        """
        member = self.starting.pop(ref)
        try:
            _, seconds = ray.get(ref)
        except RayError:
            self.drop(member)
            raise
        member.ready = True
        return seconds

    def drop(self, member: WorkerHandle) -> list[Any]:
        """Forgets a worker that died, and gives back the tasks it had, the running one first.

        One that only cannot be reached is killed for good: it must not hold its resources.
        """
        if member in self.members:
            self.members.remove(member)
            ray.kill(member.actor)
        tasks, member.tasks = member.tasks, []
        return tasks

    def start_one(self) -> None:
        """Asks the cluster for one more worker, which loads its teachers at once."""
        needs = self.resources
        threads = str(needs.num_threads)
        options: dict[str, Any] = {
            "num_cpus": needs.num_cpus,
            "num_gpus": needs.num_gpus,
            "resources": needs.custom or None,
            "memory": int(needs.memory_gb * 1e9) or None,
            "accelerator_type": needs.accelerator_type or None,
            "max_restarts": 0,
            "runtime_env": {
                "env_vars": {
                    name: threads
                    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
                }
            },
        }
        options = {name: value for name, value in options.items() if value is not None}
        actor = (
            ray.remote(Worker)
            .options(**options)
            .remote(
                self.setups,
                device="cuda" if needs.num_gpus else "cpu",
                num_threads=needs.num_threads,
            )
        )
        member = WorkerHandle(actor)
        self.members.append(member)
        self.starting[actor.start.remote()] = member


def arrange(setups: Sequence[TeacherSetup], decode: Resources) -> tuple[list[Pool], Pool]:
    """Pools for a build: all of them, and the one that decodes and commits.

    GPU pools come first: their workers take their CPU cores before CPU workers fill the rest.
    """
    pools: dict[str, Pool] = {}
    for resources in [*(setup.resources for setup in setups), decode]:
        sharing = [setup for setup in setups if setup.resources == resources]
        pools.setdefault(repr(resources), Pool(resources, sharing))
    ordered = sorted(pools.values(), key=lambda pool: -pool.resources.num_gpus)
    return ordered, pools[repr(decode)]


def grow(pools: Sequence[Pool]) -> int:
    """Starts workers while the cluster has room for them; how many it started.

    Every pool gets one before any gets two, then those with a GPU come first, and the others share.
    A stated number is asked for at once: waiting workers make an autoscaler add nodes. Otherwise
    nothing is done while workers are starting, for what Ray calls free lags behind.
    """
    free = [dict(node) for node in available_resources_per_node().values()]
    wanted: list[Pool] = []
    for pool in pools:
        lacking = pool.resources.max_workers - len(pool.members)
        for _ in range(lacking):
            _place(pool, free)
            wanted.append(pool)
    open_ended = [pool for pool in pools if not pool.resources.max_workers]
    if not any(pool.starting for pool in open_ended):
        wanted += [pool for pool in open_ended if not pool.members and _place(pool, free)]
        for pool in open_ended:
            while pool.resources.num_gpus and _place(pool, free):
                wanted.append(pool)
        while placed := [pool for pool in open_ended if _place(pool, free)]:
            wanted += placed
    for pool in wanted:
        pool.start_one()
    return len(wanted)


def _place(pool: Pool, free: Sequence[dict[str, float]]) -> bool:
    """Takes a worker's needs out of the first node that has them."""
    asked = _asked(pool.resources)
    for node in free:
        if all(node.get(name, 0.0) + 1e-6 >= need for name, need in asked.items()):
            for name, need in asked.items():
                node[name] -= need
            return True
    return False


def _asked(resources: Resources) -> dict[str, float]:
    asked = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, **resources.custom}
    asked["memory"] = resources.memory_gb * 1e9
    if resources.accelerator_type:
        asked[f"accelerator_type:{resources.accelerator_type}"] = 0.001
    return {name: amount for name, amount in asked.items() if amount > 0}


def check_fits(pools: Sequence[Pool]) -> None:
    """Raises a UserError where the cluster could never hold a worker of every pool at once."""
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    rest = [dict(node) for node in nodes]
    for pool in pools:
        if pool.resources.max_workers or _place(pool, rest):
            continue
        asked = _asked(pool.resources)
        wanted = ", ".join(f"{name} {need:g}" for name, need in asked.items())
        who = ", ".join(setup.name for setup in pool.setups)
        who = f"a worker of teacher {who}" if who else "a worker that decodes"
        if _place(pool, nodes):
            raise UserError(
                f"{who} asks for {wanted}, which the Ray cluster has not left beside one worker of "
                "each other kind; lower the resources, or let teachers and decoding ask for the "
                "same: then they share workers"
            )
        largest = ", ".join(
            f"{name} {max((node.get(name, 0) for node in nodes), default=0):g}" for name in asked
        )
        raise UserError(
            f"{who} asks for {wanted}, more than any node of the Ray cluster has ({largest}); "
            "lower its resources, or set max_workers if an autoscaler will add such nodes"
        )
