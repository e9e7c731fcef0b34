"""Implements the scheduler's interface with Ray. No other file of this project imports Ray.

Ray reads its environment variables on import (`pipeline.build.environment.prepare`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import manifests
import pipeline
import teachers
from manifests.errors import StoreError, UserError
from pipeline.build.backend import Call, LossCause, Node, ResultLost, WorkerLost
from pipeline.build.environment import (
    StopSignal,
    advice_on_connecting,
    check_address,
)
from pipeline.build.node_watch import end_with_cluster, node_watch
from pipeline.build.ray_texts import OWNER_DIED, cause_from_text
from pipeline.build.setup import TeacherSetup
from pipeline.build.worker import Worker
from pipeline.config import BuildConfig, Resources

LONGEST_TEMP_DIR = 35
"""Maximum length of the temporary folder's path in bytes. It leaves room for Ray's socket names:
the path of a Unix socket has at most 107."""
STORE_PATIENCE_S = 30.0
THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerActor(Worker):
    """A `Worker` as a Ray actor.

    Args:
        setups: See `Worker`.
        excluded_paths: Folders in which modules are not looked for.
        options: See `Worker`.
    """

    def __init__(
        self, setups: Sequence[TeacherSetup], *, excluded_paths: Sequence[str], **options: Any
    ) -> None:
        sys.path[:] = [folder for folder in sys.path if folder not in excluded_paths]
        super().__init__(setups, **options)

    def _fetch(self, handle: ray.ObjectRef) -> Any:
        return ray.get(handle)

    def _node_id(self) -> str:
        return ray.get_runtime_context().get_node_id()


class RayBackend:
    """A `Backend` on the Ray cluster that this process is connected to."""

    def __init__(self) -> None:
        self._completed: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._actor_class = ray.remote(WorkerActor)

    def nodes(self) -> list[Node]:
        """See `Backend`."""
        return [
            Node(node["NodeID"], node["NodeManagerAddress"], dict(node["Resources"]))
            for node in ray.nodes()
            if node["Alive"]
        ]

    def available(self) -> Mapping[str, float]:
        """See `Backend`."""
        return ray.available_resources()

    def start_worker(
        self,
        resources: Resources,
        setups: Sequence[TeacherSetup],
        *,
        node_id: str | None,
        calls_at_once: int = 1,
    ) -> Any:
        """See `Backend`."""
        threads = str(resources.num_threads)
        options: dict[str, Any] = {
            "num_cpus": resources.num_cpus,
            "num_gpus": resources.num_gpus,
            "max_restarts": 0,
            "max_concurrency": calls_at_once,
            "runtime_env": {"env_vars": dict.fromkeys(THREAD_LIMITS, threads)},
        }
        if resources.custom:
            options["resources"] = resources.custom
        if resources.memory_gb:
            options["memory"] = int(resources.memory_gb * 1e9)
        if resources.accelerator_type:
            options["accelerator_type"] = resources.accelerator_type
        if node_id is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=False)
        # Ray adds the driver's working folder, where the driver itself may not look for modules.
        here = str(Path.cwd())
        return self._actor_class.options(**options).remote(
            setups,
            excluded_paths=[] if {"", here} & set(sys.path) else [here],
            device="cuda" if resources.num_gpus else "cpu",
            num_threads=resources.num_threads,
        )

    def call(self, worker: Any, method: str, *arguments: Any, keep: bool = False) -> Call:
        """See `Backend`."""
        call = Call(worker)
        bound = getattr(worker, method)
        if keep:
            call.kept, reference = bound.options(num_returns=2).remote(*arguments)
        else:
            reference = bound.remote(*arguments)
        call.result = reference.future()
        call.result.add_done_callback(functools.partial(_announce, self._completed, call))
        return call

    def completed(self, timeout: float) -> list[Call]:
        """See `Backend`."""
        calls: list[Call] = []
        with contextlib.suppress(queue.Empty):
            calls.append(self._completed.get(timeout=timeout))
            while True:
                calls.append(self._completed.get_nowait())
        return calls

    def result(self, call: Call) -> Any:
        """See `Backend`."""
        with _translated():
            return call.result.result()

    def kill(self, worker: Any) -> None:
        """See `Backend`."""
        ray.kill(worker)

    def keep(self, value: Any) -> Any:
        """See `Backend`."""
        return ray.put(value)

    def fetch(self, handle: Any) -> Any:
        """See `Backend`."""
        with _translated():
            return ray.get(handle)


def _announce(completed: queue.SimpleQueue[Call], call: Call, result: Any) -> None:
    """Called in Ray's thread, which notices the end of its process before the scheduler does."""
    if OWNER_DIED in str(result.exception()):
        end_with_cluster()
    completed.put(call)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Converts Ray's exceptions to those of `pipeline.build.backend`."""
    try:
        yield
    except exceptions.RuntimeEnvSetupError as error:
        raise UserError(f"the cluster cannot set up workers: {_last_line(error)}") from None
    except (exceptions.OutOfDiskError, exceptions.ObjectStoreFullError) as error:
        raise StoreError(f"Ray's object store is full: {_last_line(error)}") from None
    except exceptions.ObjectLostError as error:
        raise ResultLost(str(error)) from None
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, exceptions.ObjectLostError):
            raise ResultLost(str(cause)) from None
        if isinstance(cause, exceptions.OutOfDiskError | exceptions.ObjectStoreFullError):
            raise StoreError(f"Ray's object store is full: {_last_line(cause)}") from None
        if isinstance(cause, Exception):
            raise cause from None
        raise
    except exceptions.RayError as error:
        raise WorkerLost(_loss_cause(error), _last_line(error)) from None


def _loss_cause(error: exceptions.RayError) -> LossCause:
    """The cause of a lost worker, from the type of the error or, failing that, its text."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return "memory"
    cause = cause_from_text(str(error))
    if cause != "memory" and getattr(error, "preempted", False):
        return "node"
    crashed = isinstance(error, exceptions.WorkerCrashedError)
    return cause or ("process" if crashed else "node")


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]


@contextlib.contextmanager
def connected(config: BuildConfig, stop: StopSignal) -> Iterator[RayBackend]:
    """Connects to the Ray cluster at `config.ray_address`, or starts a local one for the build.

    On an existing cluster, the code is sent to the workers as Ray's `py_modules`.

    Raises:
        UserError: there is no such cluster, or a local one cannot be started here.
    """
    if ray.is_initialized():
        _wait_for_object_store()
        yield RayBackend()
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if config.ray_address:
        context = _join(config, quiet)
    else:
        own = {"runtime_env": {"py_modules": config.py_modules}} if config.py_modules else {}
        context = _start_local(quiet | own)
    stop.install()
    try:
        stop.check()
        _wait_for_object_store()
        with node_watch(context.address_info.get("raylet_socket_name") or "", stop):
            yield RayBackend()
    finally:
        with stop.kept_while_ray_stops():
            ray.shutdown()


def _start_local(quiet: dict[str, Any]) -> Any:
    folder = tempfile.gettempdir()
    if len(folder.encode()) > LONGEST_TEMP_DIR:
        raise UserError(
            f"the temporary folder {folder} has a path of {len(folder.encode())} bytes, which "
            f"leaves no room for the names of Ray's sockets (at most {LONGEST_TEMP_DIR}); set "
            "TMPDIR to a shorter path, e.g. TMPDIR=/tmp"
        )
    try:
        # The address is "local", because without one Ray would join the cluster that was last
        # started here.
        return ray.init("local", include_dashboard=False, **quiet)
    except Exception as error:
        # Ray raises the base class if a node does not start in time.
        if type(error) is not Exception and not isinstance(
            error, OSError | RuntimeError | ValueError
        ):
            raise
        raise UserError(
            f"a local Ray cluster does not start on this machine ({_last_line(error)}); run the "
            "command again if the machine is busy, else free memory and space in the temporary "
            "folder, or name a running cluster with --ray-address"
        ) from None


def _join(config: BuildConfig, quiet: dict[str, Any]) -> Any:
    ours = [str(Path(package.__path__[0])) for package in (manifests, teachers, pipeline)]
    runtime = {"py_modules": [*ours, *config.py_modules]}
    check_address(config.ray_address)
    try:
        return ray.init(config.ray_address, runtime_env=runtime, **quiet)
    except (ConnectionError, exceptions.AuthenticationError) as error:
        reason = _last_line(error)
        raise UserError(
            f"no Ray cluster answers at {config.ray_address!r} ({reason}); "
            f"{advice_on_connecting(reason)}"
        ) from None
    except (RuntimeError, ValueError) as error:
        # Other versions of Ray or Python, or a runtime environment that Ray cannot make.
        reason = " ".join(str(error).split())
        raise UserError(
            f"the Ray cluster at {config.ray_address!r} cannot be joined: {reason}"
        ) from None


def _wait_for_object_store() -> None:
    deadline = time.monotonic() + STORE_PATIENCE_S
    while not ray.cluster_resources().get("object_store_memory"):
        if time.monotonic() > deadline:
            raise UserError("the Ray cluster has no object store memory; is any node of it alive?")
        time.sleep(0.2)
