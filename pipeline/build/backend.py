"""The scheduler's view of a cluster: nodes, worker processes and calls that complete.

`pipeline.build.cluster` implements it on Ray. The tests also have an implementation within one
process, so faults are planted and timed without a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pipeline.build.setup import TeacherSetup
from pipeline.config import Resources

LossCause = Literal["process", "memory", "node", "killed"]
"""Why a worker is gone. `process`: it died by itself on a live node (a crash, the kernel's memory
killer). `memory`: Ray ended it because its node ran low on memory. `node`: its node died, was
drained or was preempted. `killed`: somebody ended it on purpose."""


class WorkerLost(Exception):
    """A call will never finish, because its worker is gone."""

    def __init__(self, cause: LossCause, message: str) -> None:
        super().__init__(message)
        self.cause: LossCause = cause


class ResultLost(Exception):
    """A kept result is gone with the node that held it."""


@dataclass(frozen=True, slots=True)
class Node:
    """A live machine of the cluster."""

    node_id: str
    name: str
    """Its address, for messages."""
    resources: Mapping[str, float]
    """Everything that it has, whether in use or not; `object_store_memory` is in bytes."""


@dataclass(slots=True, eq=False)
class Call:
    """One method call of a worker."""

    worker: Any
    result: Any = None
    """The implementation's own record of the result."""
    kept: Any = None
    """Handle of the large first result, which stays where it was made."""


class Backend(Protocol):
    """A cluster of worker processes."""

    def nodes(self) -> list[Node]:
        """The live nodes."""
        ...

    def available(self) -> Mapping[str, float]:
        """Resources that nobody uses at the moment, summed over the nodes; may lag by a second."""
        ...

    def start_worker(
        self,
        resources: Resources,
        setups: Sequence[TeacherSetup],
        *,
        node_id: str | None,
        calls_at_once: int = 1,
    ) -> Any:
        """Asks for a worker process, on a given node or wherever there will be room.

        Args:
            resources: Resources that it takes of a node.
            setups: Its teachers.
            node_id: The node; None for any.
            calls_at_once: Calls that it runs at the same time, each in a thread.
        """
        ...

    def call(self, worker: Any, method: str, *arguments: Any, keep: bool = False) -> Call:
        """Calls a worker's method; a worker runs as many calls at once as it was started for.

        Args:
            worker: From `start_worker`.
            method: Name of a method of `pipeline.build.worker.Worker`.
            arguments: Handles of kept results among them arrive as their values.
            keep: The method returns a pair: the first is kept on the worker's node, the second
                is the call's result.
        """
        ...

    def completed(self, timeout: float) -> list[Call]:
        """The calls that have completed since, after a wait for the first of them."""
        ...

    def result(self, call: Call) -> Any:
        """The value that a completed call returned.

        Raises:
            WorkerLost: the worker is gone.
            ResultLost: an argument is gone.
            Exception: whatever the method raised.
        """
        ...

    def kill(self, worker: Any) -> None:
        """Ends a worker process for good."""
        ...

    def keep(self, value: Any) -> Any:
        """Puts a value where workers can read it; its handle."""
        ...

    def fetch(self, handle: Any) -> Any:
        """The value of a handle.

        Raises:
            ResultLost: it is gone.
        """
        ...
