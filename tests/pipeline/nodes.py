"""Real Ray nodes and builds in separate processes, for tests that kill them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from manifests.cache import shards, stored_rows
from manifests.cache.layout import Layout
from manifests.corpus.corpus import Corpus
from tests.pipeline.conftest import ENERGY, ROOT

MAIN = "from pipeline.cli import main; main()"
TIMEOUT_S = 120.0
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    # A driver with an explicit cluster address does not get the token that `ray start` uses.
    "RAY_AUTH_MODE": "disabled",
    # Ray detects a dead node within seconds.
    "RAY_health_check_period_ms": "500",
    # Ray lowers the priority of its workers, which a busy machine then starves.
    "RAY_worker_niceness": "0",
    "RAY_health_check_failure_threshold": "3",
    # Largest result in bytes that Ray keeps in the driver. It is so small that even rows of the
    # fake teacher are lost with the node that computed them.
    "RAY_max_direct_call_object_size": "1500",
}


class Node:
    """A node of a Ray cluster, started with `ray start`; the first node is the head.

    A separate temporary folder isolates it from other clusters on this machine.
    """

    def __init__(
        self,
        *,
        head: Node | None = None,
        num_cpus: float = 0,
        resources: dict | None = None,
        name: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        place = ["--head", "--port=0", "--include-dashboard=false"]
        if head is not None:
            place = [f"--address={head.address}"]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *(*place, f"--num-cpus={num_cpus}", f"--resources={json.dumps(resources or {})}"),
            *(f"--temp-dir={self._folder}", "--object-store-memory=100000000"),
            *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
            "--disable-usage-stats",
        ]
        log = Path(self._folder) / "start.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**ENVIRONMENT, "COAT_TEST_NODE": name, **(environment or {})},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(lambda: "Ray runtime started" in log.read_text())
        # Ray writes the address only after it has printed that it is started.
        address = Path(self._folder) / "ray_current_cluster"
        if head is None:
            wait_until(lambda: address.is_file() and address.read_text().strip() != "")
        self.address: str = address.read_text().strip() if head is None else head.address

    @property
    def raylet(self) -> psutil.Process | None:
        """The raylet process, whose children are the node's workers."""
        children = psutil.Process(self._process.pid).children()
        return next((child for child in children if child.name() == "raylet"), None)

    def workers(self, method: str = "") -> list[psutil.Process]:
        """Returns the worker processes of this node, or those that run a method."""
        prefix = f"ray::WorkerActor.{method}" if method else "ray::WorkerActor"
        result = []
        for child in self.raylet.children() if self.raylet else []:
            try:
                if child.cmdline()[0].startswith(prefix):
                    result.append(child)
            except (psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
                continue
        return result

    @property
    def node_id(self) -> str:
        """Ray's id of the node."""
        assert self.raylet is not None
        flags = [part for part in self.raylet.cmdline() if part.startswith("--node_id=")]
        return flags[0].partition("=")[2]

    def drain(self, seconds: int) -> None:
        """Announces that the node will be removed, as an autoscaler or a spot notice does."""
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "drain-node"),
            *(f"--address={self.address}", f"--node-id={self.node_id}"),
            *("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot notice"),
            f"--deadline-remaining-seconds={seconds}",
        ]
        subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)

    def kill(self) -> None:
        """Kills all processes of the node at once, like a power cut."""
        if self._process.poll() is None:
            children = psutil.Process(self._process.pid).children(recursive=True)
            for process in [psutil.Process(self._process.pid), *children]:
                kill(process)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def kill(process: psutil.Process) -> bool:
    """Sends SIGKILL; returns whether the process still existed."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def wait_until(condition: Any, timeout_s: float = TIMEOUT_S) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)


class Build:
    """A configured `coat-cache build` that can be run repeatedly in a separate process."""

    def __init__(
        self,
        corpus: Corpus,
        cache: Path | str,
        *,
        node: Node | None = None,
        runtime: dict | None = None,
        resources: dict | None = None,
        before: str = "",
        **options: Any,
    ) -> None:
        """
        Args:
            corpus: The clips.
            cache: Address of the cache.
            node: A node of the cluster; without one, the command starts a local cluster.
            runtime: Settings of the fake teacher.
            resources: Resources of the fake teacher.
            before: Python that the command runs first, as with smaller time limits.
            **options: Fields of the build's configuration.
        """
        self._main = f"{before}\n{MAIN}"
        teacher = {"family": ENERGY, "runtime": runtime or {}, "resources": resources or {}}
        config = {
            "corpus": corpus.folder.uri,
            "cache": str(cache),
            "preset": "none",
            "ray_address": node.address if node is not None else "",
            "teacher": {"energy": teacher},
            **options,
        }
        self.cache = cache
        self.environment: dict[str, str] = {}
        """Variables that are added to the command's environment."""
        self._config = Path(tempfile.mkdtemp(prefix="coat-")) / "build.yaml"
        self._config.write_text(yaml.safe_dump(config))

    def start(self) -> subprocess.Popen:
        """Starts the command."""
        return subprocess.Popen(
            [sys.executable, "-c", self._main, "build", "--config", str(self._config)],
            env={**ENVIRONMENT, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
        """Runs the command to its end, and returns the exit code and the output."""
        process = self.start()
        output, _ = process.communicate(timeout=timeout_s)
        return process.returncode, output


def cache_contents(cache: Path | str, *, teacher: str = "energy") -> dict[int, tuple]:
    """Returns shard -> (rows, failures, digest) of a teacher, and checks that no clip is lost."""
    layout = Layout.open(cache)
    (name,) = layout.corpora()
    corpus, spec = layout.corpus(name), layout.teacher(teacher)
    folder = layout.shards(spec, name)
    result = {}
    for number in shards.committed(folder):
        marker = shards.read_marker(folder, number)
        rows = [
            (row.clip_id, row.duration, row.audio_digest, row.metadata, *_arrays(row))
            for row in stored_rows.read_rows(folder, marker, spec)
        ]
        failures = shards.read_failures(folder, marker)
        accounted = [row[0] for row in rows] + [failure.clip_id for failure in failures]
        assert sorted(accounted) == sorted(corpus.shard_ids(number)), "lost or repeated clips"
        result[number] = (rows, failures, marker.data_sha256)
    assert list(result) == list(range(corpus.num_shards)), "lost shards"
    return result


def _arrays(row: shards.Row) -> Sequence[tuple[str, list]]:
    return [(name, encoded.decode().tolist()) for name, encoded in row.frames.items()]
