"""Finds nodes for workers, with this build's own accounting of the resources of every node.

Free resources are a node's total minus the resources of this build's workers. GPUs are counted
individually, because a fraction cannot be split over two GPUs. The resources of other jobs are
known only as a sum over the cluster, and are respected as a sum.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence

from pipeline.build.backend import Node
from pipeline.config import Resources

TOLERANCE = 1e-6


def requested(resources: Resources) -> dict[str, float]:
    """Returns Ray's names and amounts of the resources that one worker requests."""
    amounts = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, **resources.custom}
    amounts["memory"] = resources.memory_gb * 1e9
    if resources.accelerator_type:
        amounts[f"accelerator_type:{resources.accelerator_type}"] = 0.001
    return {name: amount for name, amount in amounts.items() if amount > 0}


class _NodeAccount:
    def __init__(self, node: Node) -> None:
        self.node_id = node.node_id
        self.free = dict(node.resources)
        self.gpus = [1.0] * int(node.resources.get("GPU", 0) + TOLERANCE)

    def room(self, needs: Mapping[str, float]) -> float:
        """Estimates how many times the needs fit; below 1, they do not fit."""
        gpus = needs.get("GPU", 0.0)
        if gpus and not self._choose_gpus(gpus):
            return 0.0
        return min(
            ((self.free.get(name, 0.0) + TOLERANCE) / need for name, need in needs.items()),
            default=0.0,
        )

    def take(self, needs: Mapping[str, float]) -> None:
        gpus = needs.get("GPU", 0.0)
        for place in self._choose_gpus(gpus):
            self.gpus[place] -= min(gpus, 1.0)
        for name, need in needs.items():
            self.free[name] = self.free.get(name, 0.0) - need

    def _choose_gpus(self, amount: float) -> list[int]:
        """Chooses whole GPUs for amounts of at least one, else the fullest GPU with enough left."""
        each = min(amount, 1.0)
        fitting = [gpu for gpu, free in enumerate(self.gpus) if free + TOLERANCE >= each]
        fitting.sort(key=lambda gpu: self.gpus[gpu])
        count = max(1, round(amount))
        return fitting[:count] if amount and len(fitting) >= count else []


def _sum(amounts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for each in amounts:
        for name, amount in each.items():
            total[name] = total.get(name, 0.0) + amount
    return total


class Account:
    """Free resources by node.

    Args:
        nodes: The live nodes.
        taken: (node, resources) of every worker of this build.
        placed: Resources of those workers that are already running: the cluster counts them as
            used.
        available: Resources that the cluster reports as unused, as a sum; None means all are.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        taken: Iterable[tuple[str, Resources]] = (),
        placed: Iterable[Resources] = (),
        available: Mapping[str, float] | None = None,
    ) -> None:
        self._nodes = {node.node_id: _NodeAccount(node) for node in nodes}
        totals = _sum(node.resources for node in nodes)
        ours = _sum(map(requested, placed))
        self._usable = dict(totals)
        if available is not None:
            for name, total in totals.items():
                others = max(0.0, total - available.get(name, 0.0) - ours.get(name, 0.0))
                self._usable[name] = total - others
        self._heaps: dict[tuple, list[tuple[float, int, str]]] = {}
        for node_id, resources in taken:
            self._take(node_id, requested(resources))

    def place(self, resources: Resources, *, avoid: Collection[str] = ()) -> str | None:
        """Reserves a worker's needs on the node with the most room; returns its id, or None."""
        needs = requested(resources)
        if any(self._usable.get(name, 0.0) + TOLERANCE < need for name, need in needs.items()):
            return None
        roomiest = self._roomiest(needs, frozenset(avoid))
        while roomiest:
            room, order, node_id = roomiest[0]
            # Later reservations can only have reduced the room.
            now = self._nodes[node_id].room(needs)
            if now < 1.0 - TOLERANCE:
                heapq.heappop(roomiest)
            elif now < -room:
                heapq.heapreplace(roomiest, (-now, order, node_id))
            else:
                self._take(node_id, needs)
                return node_id
        return None

    def _roomiest(
        self, needs: Mapping[str, float], avoid: frozenset[str]
    ) -> list[tuple[float, int, str]]:
        """A heap of the nodes with room: (minus the room, order, id)."""
        key = tuple(sorted(needs.items())), avoid
        if key not in self._heaps:
            rooms = [
                (-account.room(needs), order, node_id)
                for order, (node_id, account) in enumerate(self._nodes.items())
                if node_id not in avoid
            ]
            heapq.heapify(rooms)
            self._heaps[key] = rooms
        return self._heaps[key]

    def _take(self, node_id: str, needs: Mapping[str, float]) -> None:
        if node_id in self._nodes:
            self._nodes[node_id].take(needs)
        for name, need in needs.items():
            self._usable[name] = self._usable.get(name, 0.0) - need
