"""Measures planning, resuming and status with millions of clips, and one driver with 64 workers.

    python -m benchmarks.scale                     all parts
    python -m benchmarks.scale --part markers      only the first
    python -m benchmarks.scale --part store        five teachers on an object store 40 ms away

Part one: synthetic corpora and the commit markers of one teacher (384 columns, 256 clips per
shard). Every step runs in a separate process, whose peak memory comes from the operating system.
Part "store" is in `benchmarks.scale_store`.
Part two: a real build on a local Ray cluster that claims 64 CPUs, with a teacher that sleeps. Its
efficiency is the teacher's share of the workers' time, from the moment when all 64 are ready to the
last commit; the rest is decoding, writing, waiting for the driver, and the tail.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from rich.console import Console
from rich.table import Table

from benchmarks import distant_store, scale_store
from benchmarks.hardware import describe
from benchmarks.reader import SPEC, STREAM
from manifests.cache import shards
from manifests.cache.layout import Layout
from manifests.cache.shard_files import marker_name
from manifests.cache.shards import Failure, Marker
from manifests.cache.stream_sums import Sums
from manifests.clips import SCHEMA, Clip
from manifests.corpus.corpus import Corpus, build
from manifests.corpus.corpus_index import CLIPS_PER_PART, CorpusIndex, Part
from pipeline.build import plan
from pipeline.inspect.status import status

console = Console(highlight=False, width=110)

PER_SHARD = 256
BLOCK_SECONDS = 4.0
"""Time of the sleeping teacher for a block of 8 clips; the embedded experts take 30 s."""


def make_corpus(folder: Path, clips: int, *, labelled: bool = False) -> Corpus:
    """Builds a corpus whose rows refer to no real audio, part by part.

    Args:
        folder: Folder to write to.
        clips: Number of clips.
        labelled: Give each clip its own text and one of 50 labels, `sound`.
    """
    folder.mkdir(parents=True)
    parts: list[Part] = []
    for first in range(0, clips, CLIPS_PER_PART):
        count = min(CLIPS_PER_PART, clips - first)
        names = [f"{index:08d}" for index in range(first, first + count)]
        columns = [
            pa.array([f"clip{name}" for name in names]),
            pa.array([f"/data/audio/{name}.wav" for name in names]),
            pa.array(np.zeros(count)),
            pa.array(np.full(count, 6.0)),
            pa.array([f"some words that were said in {name}" for name in names])
            if labelled
            else pa.array(["some words that were said"] * count),
            pa.array([f'{{"sound": "sound {int(name) % 50}"}}' for name in names])
            if labelled
            else pa.array(["{}"] * count),
            pa.nulls(count, pa.float64()),
        ]
        name = f"clips-{len(parts):05d}.parquet"
        table = pa.table(columns, schema=SCHEMA)
        pq.write_table(table, folder / name, row_group_size=PER_SHARD, compression="zstd")
        part = Part(
            file=name,
            clips=count,
            shards=-(-count // PER_SHARD),
            first_shard=sum(part.shards for part in parts),
            seconds=6.0 * count,
            bytes=(folder / name).stat().st_size,
            sha256=f"{len(parts):064x}",
        )
        parts.append(part)
    contents = CorpusIndex(name="corpus", clips_per_shard=PER_SHARD, parts=tuple(parts))
    (folder / "corpus.json").write_bytes(contents.to_bytes())
    return Corpus(folder)


FAILED = 2
"""Number of clips without targets in every shard."""


def make_markers(layout: Layout, corpus: Corpus) -> None:
    """Commits every shard of one teacher, without the data."""
    folder = Path(layout.shards(SPEC, corpus.name).path("markers"))
    folder.mkdir(parents=True)
    total = Sums.zero(STREAM.dim)
    total.total_D = np.random.default_rng(0).standard_normal(STREAM.dim)
    sums = {STREAM.name: total.to_json()}
    for number, size in enumerate(corpus.shard_sizes()):
        ids = [f"clip{index:08d}" for index in range(number * PER_SHARD, number * PER_SHARD + size)]
        marker = Marker(
            shard=number,
            clips=size,
            rows=size - FAILED,
            failures={"empty": FAILED},
            seconds=6.0 * size,
            extract_seconds=100.0,
            finished="2026-01-01T00:00:00+00:00",
            clips_digest=shards.digest_ids(ids),
            data="0000000-12345678.parquet",
            data_bytes=1 << 24,
            data_sha256="0" * 64,
            sums=sums,
            failed=tuple(
                Failure(clip_id=clip_id, stage="decode", error="empty", message="no samples")
                for clip_id in ids[:FAILED]
            ),
        )
        (folder / marker_name(number)).write_bytes(marker.to_bytes())


def measure(step: str, address: str) -> None:
    """Prints the `Measurement` of one step, as JSON."""
    cache = Path(address)
    start, busy_before = time.perf_counter(), time.process_time()
    if step.startswith("distant "):
        scale_store.run_step(step.removeprefix("distant "), address)
    elif step in ("plan", "resume"):
        corpus = Corpus(cache / "corpora" / "corpus")
        missing_shards = plan.missing(Layout.open(cache), corpus, [SPEC])
        for _, _ in zip(plan.work(corpus, missing_shards), range(64), strict=False):
            pass
    elif step == "status":
        status(Layout.open(cache))
    seconds, core_seconds = time.perf_counter() - start, time.process_time() - busy_before
    # The peak of this program; ru_maxrss would include the parent's.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    costs = [seconds, core_seconds, int(peak) / 1024, distant_store.requests]
    print(json.dumps([*costs, distant_store.waited_s]))


class Measurement(NamedTuple):
    """The cost of one step in a separate process."""

    seconds: float
    core_seconds: float
    megabytes: float
    requests: int
    """Requests to a distant store."""
    waited_s: float
    """Seconds in which at least one request was waiting."""


def measure_in_process(step: str, cache: Path | str) -> Measurement:
    """Runs a step in a separate process."""
    command = [sys.executable, "-m", "benchmarks.scale", "--measure", step, "--cache", str(cache)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Measurement(*json.loads(output))


def markers(sizes: list[int]) -> None:
    """Measures the steps on commit markers for part one."""
    table = Table(title="Planning, resuming, status: seconds and peak memory of the process")
    table.add_column("")
    for clips in sizes:
        table.add_column(f"{clips / 1e6:g} million clips", justify="right")
    table.add_column("growth", justify="right")
    timings: dict[str, list[Measurement]] = {}
    for clips in sizes:
        folder = Path(tempfile.mkdtemp(prefix="coat-bench-"))
        corpus = make_corpus(folder / "corpora" / "corpus", clips)
        layout = Layout.create(folder)
        layout.add_teacher(SPEC)
        steps = {"nothing (imports)": "nothing", "plan, nothing done": "plan"}
        for name, step in steps.items():
            timings.setdefault(name, []).append(measure_in_process(step, folder))
        make_markers(layout, corpus)
        timings.setdefault("status, all done", []).append(measure_in_process("status", folder))
        inside = Path(layout.shards(SPEC, corpus.name).path("markers"))
        for number in range(0, corpus.num_shards, 2):
            (inside / marker_name(number)).unlink()
        timings.setdefault("resume, every second done", []).append(
            measure_in_process("resume", folder)
        )
        shutil.rmtree(folder)
    for name, results in timings.items():
        growth = results[-1].seconds / max(results[0].seconds, 1e-9)
        cells = [f"{cost.seconds:.2f} s, {cost.megabytes:.0f} MB" for cost in results]
        table.add_row(name, *cells, f"{growth:.1f} x" if results[0].seconds > 0.01 else "-")
    console.print(table)


class Watch:
    """A `ProgressListener` that records the times at which blocks were done."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self.all_ready_at = 0.0
        self.done: list[tuple[float, float]] = []
        """Collects (time, audio seconds) of every finished block."""

    def workers(self, count: int, loading_seconds: float) -> None:
        """See `ProgressListener`."""
        if count == self._workers and not self.all_ready_at:
            self.all_ready_at = time.perf_counter()

    def clips_done(self, teacher: str, clips: int, seconds: float, failures: int) -> None:
        """See `ProgressListener`."""
        if clips:
            self.done.append((time.perf_counter(), seconds))

    def clips_decoded(self, warnings: Mapping[str, int]) -> None:
        """See `ProgressListener`."""

    def committed(self, teacher: str, marker: Marker) -> None:
        """See `ProgressListener`."""

    def tick(self) -> None:
        """See `ProgressListener`."""


def measure_efficiency(workers: int, clips: int) -> None:
    """Measures the efficiency of a build with many workers for part two."""
    import ray

    from pipeline.build.cluster import RayBackend
    from pipeline.build.scheduler import Scheduler
    from pipeline.build.setup import teachers
    from pipeline.config import BuildConfig, TeacherConfig

    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    folder = Path(tempfile.mkdtemp(prefix="coat-bench-"))
    soundfile.write(folder / "tone.wav", np.zeros(1600), 16_000)
    made = [
        Clip(clip_id=f"{index:06d}", uri=str(folder / "tone.wav"), duration=0.1)
        for index in range(clips)
    ]
    corpus = build(made, folder / "corpus")
    asleep_per_second = BLOCK_SECONDS / 8 / 0.1
    config = BuildConfig(
        corpus=str(folder / "corpus"),
        cache=str(folder / "cache"),
        preset="none",
        teacher={
            "sleeper": TeacherConfig(
                family="tests.pipeline.fakes:Energy", runtime={"sleep_s": asleep_per_second}
            )
        },
    )
    setups = teachers(config)
    layout = Layout.create(config.cache)
    layout.register(corpus)
    layout.add_teacher(setups[0].spec)
    watch = Watch(workers)
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False,
             logging_level="ERROR")  # fmt: skip
    start = time.perf_counter()
    missing_shards = plan.missing(layout, corpus, [setups[0].spec])
    folders = {"sleeper": layout.shards(setups[0].spec, corpus.name)}
    driver = time.process_time()
    work = plan.work(corpus, missing_shards)
    Scheduler(RayBackend(), setups, work, folders, config, watch).run()
    driver = time.process_time() - driver
    ended = time.perf_counter()
    ray.shutdown()
    window = ended - watch.all_ready_at
    asleep = sum(
        min(seconds * asleep_per_second, max(0.0, when - watch.all_ready_at))
        for when, seconds in watch.done
    )
    last = watch.done[-1][0]
    steady_until = sorted(when for when, _ in watch.done)[-workers]
    steady = sum(
        min(seconds * asleep_per_second, max(0.0, when - watch.all_ready_at))
        for when, seconds in watch.done
        if when <= steady_until
    )
    console.print(
        f"{workers} workers of a teacher that sleeps {BLOCK_SECONDS:g} s per block, "
        f"{clips:,} clips on {len(os.sched_getaffinity(0))} real cores\n"
        f"all ready after {watch.all_ready_at - start:.1f} s, then {window:.1f} s to the last "
        f"commit ({ended - last:.1f} s after the last block)\n"
        f"efficiency {asleep / (workers * window):.3f} with the tail; "
        f"{steady / (workers * (steady_until - watch.all_ready_at)):.3f} until the last round of "
        f"blocks; driver {driver / (ended - start):.1%} of one core"
    )
    shutil.rmtree(folder)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--part", choices=["markers", "store", "busy", "all"], default="all")
    parser.add_argument("--clips", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--busy-clips", type=int, default=14_000)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.cache)
        return
    console.print(describe())
    if options.part in ("markers", "all"):
        markers(options.clips)
    if options.part in ("store", "all"):
        scale_store.store(max(options.clips))
    if options.part in ("busy", "all"):
        measure_efficiency(options.workers, options.busy_clips)


if __name__ == "__main__":
    main()
