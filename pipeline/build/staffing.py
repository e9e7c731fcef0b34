"""Starts workers, replaces lost ones, and avoids nodes on which they cannot start.

Workers are requested on nodes that have room according to the build's own accounting. A pool
without a worker reports what it waits for; a pool for which no node is left stops the build.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Sequence

from manifests.errors import UserError
from pipeline.build.backend import Backend, Call, Node, WorkerLost
from pipeline.build.faults import brief
from pipeline.build.placement import Account, requested
from pipeline.build.pools import Pool, WorkerHandle
from pipeline.build.time_limits import TimeLimits

log = logging.getLogger(__name__)

STARTS_ALLOWED = 2
"""Number of workers of a pool that may fail to start on a node before it is avoided."""
LOST_STARTS_ALLOWED = 10
"""Number of workers of a pool in a row that may be lost on a live node while they start, although
none of them failed. Without a limit, a cluster that cancels all of them keeps a build forever."""
NICENESS = "RAY_worker_niceness"
"""Ray's environment variable with the niceness of its workers."""
WAITING_REPORTED_AFTER_S = 20.0
WAITING_REPORTED_EVERY_S = 60.0


class Staffing:
    """The worker processes of a build.

    Args:
        backend: The cluster.
        pools: The pools to fill.
        limits: Time limits of a start.
        cache: Address of the cache, which every worker must be able to access.
        search_up_to: Seconds of audio up to which workers search for the best batch size; 0
            disables the search.
    """

    def __init__(
        self,
        backend: Backend,
        pools: Sequence[Pool],
        limits: TimeLimits,
        cache: str,
        *,
        search_up_to: float = 0.0,
    ) -> None:
        self._backend = backend
        self._pools = pools
        self._limits = limits
        self._start_arguments = (cache, search_up_to)
        self._starting: dict[Call, tuple[WorkerHandle, str]] = {}
        self._failed_starts: Counter[tuple[Pool, str]] = Counter()
        self._lost_starts: Counter[tuple[Pool, str]] = Counter()
        self._alive: set[str] = set()
        self._names: dict[str, str] = {}
        self._waiting_since: dict[Pool, float] = {}
        self._reported_at: dict[Pool, float] = {}

    def owns(self, call: Call) -> bool:
        """Whether a call belongs to the start of a worker."""
        return call in self._starting

    def node_name(self, node_id: str) -> str:
        """A node's address, for messages."""
        return self._names.get(node_id, node_id[:8] or "an unknown node")

    @property
    def is_complete(self) -> bool:
        """Whether every pool has a worker, including starting ones."""
        return all(pool.members for pool in self._pools)

    def dismiss(self) -> None:
        """Ends all workers, which frees their resources immediately."""
        for pool in self._pools:
            for member in list(pool.members):
                pool.drop(member)
                self._backend.kill(member.worker)

    def grow(self, now: float) -> list[Node]:
        """Starts workers while the cluster has room for them; returns the live nodes.

        Every pool gets one worker before any gets two; then pools with a GPU have priority, and the
        others share. A stated number of workers is requested at once: waiting workers make an
        autoscaler add nodes.
        """
        nodes = self._backend.nodes()
        self._names.update((node.node_id, node.name) for node in nodes)
        self._alive = {node.node_id for node in nodes}
        self._check_starts(now)
        members = [(member, pool) for pool in self._pools for member in pool.members]
        account = Account(
            nodes,
            taken=[(member.node_id, pool.resources) for member, pool in members],
            placed=[pool.resources for member, pool in members if member.placed_at is not None],
            available=self._backend.available(),
        )
        open_ended = [pool for pool in self._pools if pool.is_open_ended]
        for pool in open_ended:
            if not pool.members:
                self._start_if_room(pool, account, now)
        # Requests beyond the room here may let an autoscaler add nodes.
        for pool in self._pools:
            for _ in range(pool.resources.max_workers - len(pool.members)):
                self._start(pool, account.place(pool.resources, avoid=pool.avoided), now)
        for pool in open_ended:
            while pool.resources.num_gpus and self._start_if_room(pool, account, now):
                pass
        while any([self._start_if_room(pool, account, now) for pool in open_ended]):
            pass
        for pool in self._pools:
            self._end_if_stuck(pool, nodes)
            self._report_waiting(pool, now)
        return nodes

    def _start_if_room(self, pool: Pool, account: Account, now: float) -> bool:
        node_id = account.place(pool.resources, avoid=pool.avoided)
        if node_id is not None:
            self._start(pool, node_id, now)
        return node_id is not None

    def _start(self, pool: Pool, node_id: str | None, now: float) -> None:
        worker = self._backend.start_worker(
            pool.resources, pool.setups, node_id=node_id, calls_at_once=pool.calls_at_once
        )
        member = WorkerHandle(worker, pool, now, node_id or "")
        pool.members.append(member)
        self._starting[self._backend.call(worker, "place")] = member, "place"
        started = self._backend.call(worker, "start", *self._start_arguments)
        self._starting[started] = member, "start"

    def on_call(self, call: Call, now: float) -> tuple[WorkerHandle, float] | None:
        """Handles a step of a start; returns (worker, seconds of loading) when the worker is ready.

        Raises:
            UserError: no worker can be set up.
        """
        member, step = self._starting.pop(call)
        if member not in member.pool.members:
            return None
        try:
            result = self._backend.result(call)
        except WorkerLost as error:
            why = f"it died ({brief(error)})"
            self._drop(member, why, blame=error.cause not in ("node", "killed"))
            if member.node_id in self._alive:
                self._lost_starts[member.pool, member.node_id] += 1
                if self._lost_starts[member.pool, member.node_id] >= LOST_STARTS_ALLOWED:
                    why = f"{LOST_STARTS_ALLOWED} in a row were lost as they started"
                    self.avoid(member.pool, member.node_id, f"{why} ({brief(error)})")
            return None
        except UserError as error:
            self._failed_starts[member.pool, member.node_id] += STARTS_ALLOWED
            self._drop(member, str(error), blame=True)
            return None
        except Exception as error:  # noqa: BLE001  (loading an expert may raise anything)
            self._drop(member, f"{type(error).__name__}: {brief(error)}", blame=True)
            return None
        if step == "place":
            member.node_id, member.placed_at = result, now
            if result in member.pool.avoided:
                self._drop(member, "its node is avoided", blame=False)
            return None
        member.pool.mark_ready(member)
        self._failed_starts.pop((member.pool, member.node_id), None)
        self._lost_starts.pop((member.pool, member.node_id), None)
        self._waiting_since.pop(member.pool, None)
        return member, result

    def avoid(self, pool: Pool, node_id: str, why: str) -> None:
        """Excludes a node from further starts of a pool."""
        if node_id and node_id not in pool.avoided:
            pool.avoided[node_id] = why
            log.warning(
                "node %s is avoided for %s: %s", self.node_name(node_id), pool.description, why
            )

    def _check_starts(self, now: float) -> None:
        for pool in self._pools:
            for member in [member for member in pool.members if not member.ready]:
                if member.placed_at is None:
                    # Without a node, an autoscaler was asked for one, which takes time.
                    if member.node_id and now - member.asked_at > self._limits.place:
                        why = (
                            f"its process did not start in {self._limits.place:.0f} s; if its node "
                            "is busy, raise --hang-seconds"
                        )
                        self._drop(member, why, blame=False)
                elif now - member.placed_at > self._limits.start:
                    seconds = f"{self._limits.start:.0f} s"
                    self._drop(member, f"its teachers did not load in {seconds}", blame=True)

    def _drop(self, member: WorkerHandle, why: str, *, blame: bool) -> None:
        pool, node_id = member.pool, member.node_id
        log.warning(
            "a worker for %s did not start on %s: %s",
            pool.description, self.node_name(node_id), why,
        )  # fmt: skip
        pool.drop(member)
        self._backend.kill(member.worker)
        if blame:
            self._failed_starts[pool, node_id] += 1
            if self._failed_starts[pool, node_id] >= STARTS_ALLOWED:
                self.avoid(pool, node_id, why)

    def _end_if_stuck(self, pool: Pool, nodes: Sequence[Node]) -> None:
        if pool.members or not pool.avoided:
            return
        if any(
            Account([node]).place(pool.resources)
            for node in nodes
            if node.node_id not in pool.avoided
        ):
            return
        reasons = set(pool.avoided.values())
        if len(reasons) == 1:
            (reason,) = reasons
        else:
            reason = "; ".join(
                f"on {self.node_name(node_id)}: {why}" for node_id, why in pool.avoided.items()
            )
        if "it died" in reason:
            reason += (
                "; they may need more memory: set resources.memory_gb, or run fewer teachers at "
                "once"
            )
        where = "any node" if len(pool.avoided) > 1 else self.node_name(next(iter(pool.avoided)))
        raise UserError(f"no worker for {pool.description} can start on {where}: {reason}")

    def _report_waiting(self, pool: Pool, now: float) -> None:
        if pool.num_ready:
            self._waiting_since.pop(pool, None)
            return
        since = self._waiting_since.setdefault(pool, now)
        waited = now - since
        if waited < WAITING_REPORTED_AFTER_S:
            return
        if now - self._reported_at.get(pool, -WAITING_REPORTED_EVERY_S) < WAITING_REPORTED_EVERY_S:
            return
        self._reported_at[pool] = now
        needed = ", ".join(f"{name} {need:g}" for name, need in requested(pool.resources).items())
        clock = time.strftime("%H:%M:%S", time.localtime(time.time() - waited))
        if pool.members:
            loading = sum(member.placed_at is not None for member in pool.members)
            why = f"{len(pool.members)} are starting, {loading} of them load their teachers"
            if os.environ.get(NICENESS) != "0":
                why += (
                    f"; where other programs keep the cores busy, {NICENESS}=0 helps, before the "
                    "command or, for a running cluster, before `ray start`"
                )
        else:
            why = f"no node has room for one ({needed})"
        log.warning("no worker for %s since %s: %s", pool.description, clock, why)
