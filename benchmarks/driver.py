"""Measures the blocks per second that one driver schedules, with a store latency of 40 ms.

    python -m benchmarks.driver

The scheduler, its queues and the reading of the corpus are the real ones; the workers return
immediately and there is no Ray cluster, so this is the upper limit of the driver without Ray.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from manifests.cache.shards import Marker
from manifests.clips import Clip
from manifests.storage import Folder
from pipeline.build import setup
from pipeline.build.backend import Call, Node
from pipeline.build.messages import DecodeSummary, ExtractSummary
from pipeline.build.plan import ShardWork
from pipeline.build.read_ahead import read_ahead
from pipeline.build.scheduler import Scheduler
from pipeline.config import BuildConfig, Resources, TeacherConfig
from tests.pipeline.in_process import NoProgress

LATENCY_S = 0.04
CLIPS_PER_SHARD = 256
CORES_PER_NODE = 16


class InstantCluster:
    """A `pipeline.build.backend.Backend` whose workers return immediately."""

    def __init__(self, workers: int, block_clips: int) -> None:
        resources = {"CPU": CORES_PER_NODE, "object_store_memory": 1e12}
        self._nodes = [
            Node(f"node{place}", f"node{place}", resources)
            for place in range(-(-workers // CORES_PER_NODE))
        ]
        self._block_clips = block_clips
        self._done: deque[Call] = deque()

    def nodes(self) -> list[Node]:
        return self._nodes

    def available(self) -> Mapping[str, float]:
        return {"CPU": float(CORES_PER_NODE * len(self._nodes))}

    def start_worker(
        self,
        resources: Resources,
        setups: Sequence[setup.TeacherSetup],
        *,
        node_id: str | None,
        calls_at_once: int = 1,
    ) -> Any:
        return node_id

    def call(self, worker: Any, method: str, *arguments: Any, keep: bool = False) -> Call:
        results = {
            "place": worker,
            "start": 0.0,
            "decode": DecodeSummary(self._block_clips, 1.0, 1000, [], {}),
            "extract": ExtractSummary(self._block_clips, 1.0, 0.1, 1000, []),
            "commit": Marker(
                shard=0, clips=1, rows=1, failures={}, seconds=1.0, extract_seconds=1.0,
                finished="", clips_digest="", data="", data_bytes=1, data_sha256="",
                failures_data="", failures_sha256="",
            ),
        }  # fmt: skip
        call = Call(worker, results[method], kept="kept")
        self._done.append(call)
        return call

    def completed(self, timeout: float) -> list[Call]:
        calls = list(self._done)
        self._done.clear()
        return calls

    def result(self, call: Call) -> Any:
        return call.result

    def kill(self, worker: Any) -> None: ...

    def keep(self, value: Any) -> Any:
        return value

    def fetch(self, handle: Any) -> Any:
        return handle


def read(number: int) -> list[Clip]:
    """Reads a shard of the corpus after the store's latency."""
    time.sleep(LATENCY_S)
    return [Clip(clip_id=f"{number}-{place}", uri="/x.wav") for place in range(CLIPS_PER_SHARD)]


def measure(workers: int, block_clips: int, shards: int) -> tuple[float, float]:
    """Returns (blocks per second, blocks per second of the driver's processor time)."""
    config = BuildConfig(
        corpus="corpus",
        cache="cache",
        preset="none",
        block_clips=block_clips,
        block_seconds=86400,
        teacher={"energy": TeacherConfig(family="tests.pipeline.fakes:Energy")},
    )

    def work() -> Iterator[ShardWork]:
        for number, clips in enumerate(read_ahead(read, range(shards))):
            yield ShardWork(number, [clip.clip_id for clip in clips], clips, ["energy"])

    cluster = InstantCluster(workers, block_clips)
    folders = {"energy": Folder(tempfile.mkdtemp())}
    wall, processor = time.perf_counter(), time.process_time()
    Scheduler(cluster, setup.teachers(config), work(), folders, config, NoProgress()).run()
    blocks = shards * CLIPS_PER_SHARD // block_clips
    return (
        blocks / (time.perf_counter() - wall),
        blocks / (time.process_time() - processor),
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shards", type=int, default=2000)
    shards = parser.parse_args().shards
    table = Table(title="Blocks that one driver schedules, corpus 40 ms away")
    for heading in ("workers", "clips per block", "blocks/s", "blocks per processor second"):
        table.add_column(heading, justify="right")
    for workers, block_clips in ((256, 64), (2048, 64), (2048, 16)):
        rate, per_processor = measure(workers, block_clips, shards)
        table.add_row(f"{workers:,}", str(block_clips), f"{rate:,.0f}", f"{per_processor:,.0f}")
    console = Console(highlight=False, width=110)
    console.print(table)
    console.print(describe())


if __name__ == "__main__":
    main()
