"""The scheduler's view of a cluster: nodes, worker processes and calls that complete.

`pipeline.build.cluster` implements it on Ray. The tests have another implementation within one
process, which injects faults at chosen times without a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pipeline.build.setup import TeacherSetup
from pipeline.config import Resources

LossCause = Literal["process", "memory", "node", "killed"]
"""The cause of a lost worker. `process`: the process died on a live node (a crash, the kernel's
out-of-memory killer). `memory`: Ray ended it because its node ran low on memory. `node`: its node
died, was drained or was preempted. `killed`: it was ended on purpose."""


class WorkerLost(Exception):
    """A call cannot finish because its worker is gone."""

    def __init__(self, cause: LossCause, message: str) -> None:
        super().__init__(message)
        self.cause: LossCause = cause


class ResultLost(Exception):
    """A kept result was lost with its node."""


@dataclass(frozen=True, slots=True)
class Node:
    """A live machine of the cluster."""

    node_id: str
    name: str
    """Its address, for messages."""
    resources: Mapping[str, float]
    """All resources of the node, used or not; `object_store_memory` is in bytes."""


@dataclass(slots=True, eq=False)
class Call:
    """One method call of a worker."""

    worker: Any
    result: Any = None
    """The implementation's handle of the result."""
    kept: Any = None
    """Handle of the large first result, which stays on the worker's node."""


class Backend(Protocol):
    """A cluster of worker processes."""

    def nodes(self) -> list[Node]:
        """The live nodes."""
        ...

    def available(self) -> Mapping[str, float]:
        """Returns unused resources, summed over the nodes; may lag by a second."""
        ...

    def start_worker(
        self,
        resources: Resources,
        setups: Sequence[TeacherSetup],
        *,
        node_id: str | None,
        calls_at_once: int = 1,
    ) -> Any:
        """Requests a worker process, on a given node or on any node with room.

        Args:
            resources: Resources that it uses on its node.
            setups: Its teachers.
            node_id: The node; None for any.
            calls_at_once: Number of calls that it runs in parallel, each in a thread.
        """
        ...

    def call(self, worker: Any, method: str, *arguments: Any, keep: bool = False) -> Call:
        """Calls a worker's method. A worker runs up to `calls_at_once` calls in parallel.

        Args:
            worker: A worker from `start_worker`.
            method: Name of a method of `pipeline.build.worker.Worker`.
            arguments: Arguments; handles of kept results are replaced by their values.
            keep: The method returns a pair, whose first element is kept on the worker's node and
                whose second is the call's result.
        """
        ...

    def completed(self, timeout: float) -> list[Call]:
        """Returns the calls that completed since the last time, waiting for at least one."""
        ...

    def result(self, call: Call) -> Any:
        """The value that a completed call returned.

        Raises:
            WorkerLost: the worker is gone.
            ResultLost: an argument is gone.
            Exception: the error of the method.
        """
        ...

    def kill(self, worker: Any) -> None:
        """Kills a worker process."""
        ...

    def keep(self, value: Any) -> Any:
        """Stores a value for workers, and returns its handle."""
        ...

    def fetch(self, handle: Any) -> Any:
        """The value of a handle.

        Raises:
            ResultLost: the value was lost.
        """
        ...
