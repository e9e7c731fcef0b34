"""A `pipeline.build.backend.Backend` within one process, with injected faults.

Every worker is a real `pipeline.build.worker.Worker` in its own thread. The loss of a process or a
node is simulated: pending calls end as lost, and kept results of a lost node are gone.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manifests.cache.shards import Marker
from pipeline.build.backend import Call, LossCause, Node, ResultLost, WorkerLost
from pipeline.build.setup import TeacherSetup
from pipeline.build.worker import Worker
from pipeline.config import Resources


class ProcessDies(BaseException):
    """Raised by an injected fault to simulate that the worker's process dies during the call."""

    def __init__(self, cause: LossCause = "process") -> None:
        super().__init__(cause)
        self.cause: LossCause = cause


class KeptResult:
    """A kept result on the node that computed it."""

    def __init__(self, backend: InProcess, value: Any, node_id: str) -> None:
        self.backend, self.value, self.node_id = backend, value, node_id

    def read(self) -> Any:
        if self.node_id and self.node_id not in self.backend.alive:
            raise ResultLost("the node is gone")
        return self.value


class LocalWorker(Worker):
    """A `Worker` that reads kept results of its backend."""

    node_id = ""

    def _fetch(self, handle: Any) -> Any:
        return handle.read()

    def _node_id(self) -> str:
        return self.node_id


class Process:
    """The threads and calls of one worker."""

    def __init__(
        self, backend: InProcess, worker: LocalWorker, number: int, calls_at_once: int
    ) -> None:
        self.backend, self.worker, self.number = backend, worker, number
        self.calls: queue.SimpleQueue[tuple[Call, str, tuple, bool] | None] = queue.SimpleQueue()
        self.pending: dict[Call, None] = {}
        self.lost: WorkerLost | None = None
        self.threads = calls_at_once
        for _ in range(self.threads):
            threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while (request := self.calls.get()) is not None:
            if self.lost is not None:
                return  # A dead process does not run the calls that are still queued.
            call, method, arguments, keep = request
            try:
                self.backend.fault(self, method, arguments)
                read = [item.read() if isinstance(item, KeptResult) else item for item in arguments]
                result = getattr(self.worker, method)(*read)
                if keep:
                    call.kept.value, result = result
                self.done(call, result, None)
            except ProcessDies as death:
                self.die(death.cause, "killed by an injected fault")
            except Exception as error:  # noqa: BLE001  (a worker may raise anything)
                self.done(call, None, error)

    def done(self, call: Call, result: Any, error: BaseException | None) -> None:
        with self.backend.lock:
            if self.lost is None and call in self.pending:
                del self.pending[call]
                call.result = result, error
                self.backend.finished.put(call)

    def die(self, cause: LossCause, why: str) -> None:
        with self.backend.lock:
            if self.lost is not None:
                return
            self.lost = WorkerLost(cause, why)
            self.backend.processes.pop(self.number, None)
            for call in self.pending:
                call.result = None, self.lost
                self.backend.finished.put(call)
            self.pending.clear()
            for _ in range(self.threads):
                self.calls.put(None)


Fault = Callable[[Process, str, tuple], None]


class InProcess:
    """A cluster whose workers are threads of this process.

    Args:
        nodes: Name -> resources.
        fault: Called before every call with the process, the method and its arguments; it may
            raise, sleep, or kill.
    """

    def __init__(
        self, nodes: Mapping[str, Mapping[str, float]], fault: Fault | None = None
    ) -> None:
        self.alive = {
            name: {"object_store_memory": 1e9, **resources} for name, resources in nodes.items()
        }
        self.fault = fault or (lambda process, method, arguments: None)
        self.processes: dict[int, Process] = {}
        self.finished: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self.lock = threading.RLock()
        self.started: list[str] = []
        """Name of the node of each started worker."""
        self._numbers = itertools.count()

    def nodes(self) -> list[Node]:
        return [Node(name, name, resources) for name, resources in self.alive.items()]

    def available(self) -> Mapping[str, float]:
        total: dict[str, float] = {}
        for resources in self.alive.values():
            for name, amount in resources.items():
                total[name] = total.get(name, 0.0) + amount
        for process in list(self.processes.values()):
            for name, amount in process.worker.requested.items():  # type: ignore[attr-defined]
                total[name] = total.get(name, 0.0) - amount
        return total

    def start_worker(
        self,
        resources: Resources,
        setups: Sequence[TeacherSetup],
        *,
        node_id: str | None,
        calls_at_once: int = 1,
    ) -> Any:
        worker = LocalWorker(setups, device="cpu", num_threads=1)
        worker.node_id = node_id or next(iter(self.alive))
        worker.requested = {"CPU": resources.num_cpus, "GPU": resources.num_gpus}  # type: ignore[attr-defined]
        self.started.append(worker.node_id)
        process = Process(self, worker, next(self._numbers), calls_at_once)
        self.processes[process.number] = process
        return process

    def call(self, worker: Any, method: str, *arguments: Any, keep: bool = False) -> Call:
        call = Call(worker)
        if keep:
            call.kept = KeptResult(self, None, worker.worker.node_id)
        with self.lock:
            if worker.lost is not None:
                call.result = None, worker.lost
                self.finished.put(call)
            else:
                worker.pending[call] = None
                worker.calls.put((call, method, arguments, keep))
        return call

    def completed(self, timeout: float) -> list[Call]:
        calls = []
        try:
            calls.append(self.finished.get(timeout=min(timeout, 0.02)))
            while True:
                calls.append(self.finished.get_nowait())
        except queue.Empty:
            return calls

    def result(self, call: Call) -> Any:
        result, error = call.result
        if error is not None:
            raise error
        return result

    def kill(self, worker: Any) -> None:
        worker.die("killed", "it was killed")

    def keep(self, value: Any) -> Any:
        return KeptResult(self, value, "")

    def fetch(self, handle: Any) -> Any:
        return handle.read()

    def lose(self, name: str, cause: LossCause = "node") -> None:
        """Removes a node with its workers and results."""
        del self.alive[name]
        for process in list(self.processes.values()):
            if process.worker.node_id == name:
                process.die(cause, f"node {name} is gone")


class NoProgress:
    """A `ProgressListener` that ignores all events."""

    def workers(self, count: int, loading_seconds: float) -> None: ...

    def clips_done(self, teacher: str, clips: int, seconds: float, failures: int) -> None: ...

    def clips_decoded(self, warnings: Mapping[str, int]) -> None: ...

    def committed(self, teacher: str, marker: Marker) -> None: ...

    def tick(self) -> None: ...
