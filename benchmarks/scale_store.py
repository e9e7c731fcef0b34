"""Measures ten million clips and five teachers on an object store with 40 ms per request.

    python -m benchmarks.scale --part store

"Before" is arithmetic: the requests per shard and teacher of commit 652e439, counted by
instrumenting its store, times 40 ms, over its parallel requests. "Now" is measured: each step in a
separate process with `benchmarks.distant_store`. Core seconds are the step's computation, and
"waiting" is the time in which at least one of its requests was pending. An idle core needs at most
their sum; other programs on the machine increase the wall-clock time.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import distant_store, scale
from benchmarks.reader import SPEC, STREAM
from manifests.cache import marker_index
from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.cache.shard_files import marker_name
from manifests.streams.specs import TeacherSpec
from pipeline.build import plan
from pipeline.config import BuildConfig
from pipeline.inspect import failures, maintenance
from pipeline.inspect.status import status
from pipeline.report import survey

console = Console(highlight=False, width=110)

TEACHERS = 5
BEFORE = {
    # step: (requests per shard and teacher one after the other, requests at once)
    "status": ((2, 16),),
    "ls": ((2, 16),),
    "coverage": ((2, 16), (3, 1)),
    "retry": ((2, 1), (3, 1)),
    "reader": ((2, 16), (1, 1), (3, 1)),
    "survey": ((2, 8),),
}
"""Requests of commit 652e439: a marker is 2 requests (HEAD and GET), a table of failures 3, the
ids of a shard 1; every shard has failures here."""


def specs() -> list[TeacherSpec]:
    """Returns the specs of five teachers that differ in name."""
    return [replace(SPEC, name=f"teacher{index}") for index in range(TEACHERS)]


def before_seconds(step: str, num_shards: int) -> float | None:
    """Computes the time of a step at 652e439 from its requests; None without such a command."""
    step = step.removesuffix(", no index")
    if step == "failures":
        return None
    if step not in BEFORE:
        return TEACHERS * -(-num_shards // 1000) * distant_store.LATENCY_S
    per_shard = sum(count / at_once for count, at_once in BEFORE[step])
    return TEACHERS * num_shards * per_shard * distant_store.LATENCY_S


def run_step(step: str, cache: str) -> None:
    """Runs one step with the distant store."""
    distant_store.install()
    layout = Layout.open(cache)
    step = step.removesuffix(", no index")
    if step in ("plan", "resume", "resume, part 2/8"):
        corpus = layout.corpus("corpus")
        lacking = plan.missing(layout, corpus, specs())
        if "part" in step:
            config = BuildConfig(corpus="corpus", cache=cache, part="2/8")
            lacking = {name: config.shards_of_part(every) for name, every in lacking.items()}
        for _, _ in zip(plan.work(corpus, lacking), range(64), strict=False):
            pass
    elif step == "status":
        status(layout)
    elif step == "ls":
        maintenance.versions(layout)
    elif step == "coverage":
        maintenance.coverage(layout)
    elif step == "retry":
        plan.failed(layout, layout.corpus("corpus"), specs())
    elif step == "failures":
        failures.failures(layout, specs())
    elif step == "survey":
        survey.survey(layout)
    elif step == "reader":
        reader = CacheReader(cache)
        for spec in specs():
            reader.teacher(spec.name).statistics(STREAM.name)


def store(clips: int) -> None:
    """Prints the table."""
    folder = Path(tempfile.mkdtemp(prefix="coat-bench-"))
    corpus = scale.make_corpus(folder / "corpora" / "corpus", clips)
    layout = Layout.create(folder)
    layout.add_teacher(SPEC)
    scale.make_markers(layout, corpus)
    start = time.process_time()
    marker_index.refresh(layout.shards(SPEC, corpus.name))
    console.print(f"marker index of one teacher, from its markers on this disk: "
                  f"{time.process_time() - start:.1f} core seconds")  # fmt: skip
    first = Path(layout.root.path(f"teachers/{SPEC.key}"))
    for spec in specs():
        layout.add_teacher(spec)
        Path(layout.root.path(f"teachers/{spec.key}/corpus")).symlink_to(first / "corpus")
    (first / "spec.json").unlink()
    console.print(
        f"{clips:,} clips, {corpus.num_shards:,} shards, {TEACHERS} teachers, "
        f"{distant_store.LATENCY_S * 1000:g} ms a request\n\n"
        f"{'step':<20}{'before (652e439)':>17}{'core':>9}{'waiting':>10}{'sum':>9}"
        f"{'clock':>10}{'memory':>10}{'requests':>10}"
    )

    def measure(step: str) -> None:
        now = scale.measure_in_process(f"distant {step}", f"s3://{str(folder)[1:]}")
        before = before_seconds(step, corpus.num_shards)
        console.print(
            f"{step:<20}{'-' if before is None else f'{before:,.0f} s':>17}"
            f"{now.core_seconds:>7.1f} s{now.waited_s:>8.1f} s"
            f"{now.core_seconds + now.waited_s:>7.1f} s{now.seconds:>8.1f} s"
            f"{now.megabytes:>7,.0f} MB{now.requests:>10,}"
        )

    for step in ("plan", "reader", "coverage", "survey", "failures", "retry", "status", "ls"):
        measure(step)
    markers, aside = first / "corpus" / "markers", first / "corpus" / "aside"
    aside.mkdir()
    taken = [marker_name(number) for number in range(0, corpus.num_shards, 2)]
    for name in taken:
        (markers / name).rename(aside / name)
    for step in ("resume", "resume, part 2/8"):
        measure(step)
    for name in taken:
        (aside / name).rename(markers / name)
    aside.rmdir()
    shutil.rmtree(first / "corpus" / "index")
    for step in ("status, no index", "reader, no index"):
        measure(step)
    shutil.rmtree(folder)
