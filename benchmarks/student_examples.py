"""Measures time and memory of each process that opens the examples of a run, for millions of clips.

    python -m benchmarks.student_examples --clips 10000000

A corpus of rows that name no audio, two tasks, and a cache of six teachers of one stream each,
whose shards are committed without frames, since opening reads none. CPU seconds and anonymous
memory (at the end and at its peak) are measured for each process. Mapped files are not counted: the
kernel keeps one copy of them for all processes, and may drop it. "Before" stands for clips and
examples as Python objects, as in commit 652e439; they are made by the current `build_examples` from
at most 100,000 clips, and scaled. The peer is `datasets` on the corpus' Parquet files, which has
clips but neither examples nor targets.

With `--keep FOLDER`, each row, its corpus and its cache are stored there, and an interrupted run
resumes with the next row.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from benchmarks.reader import SPEC, STREAM
from benchmarks.scale import make_corpus, make_markers
from benchmarks.stored_results import load_or_measure
from manifests.cache import marker_index
from manifests.cache.layout import Layout
from manifests.corpus.corpus import Corpus
from student.config import DataConfig, TaskConfig
from student.data.block_shuffle import BlockShuffle
from student.data.build_table import open_examples
from student.data.examples import build_examples
from student.distill.streams import open_streams

console = Console(highlight=False, width=110)
TASKS = [
    TaskConfig(questions=["What is said?"], answer=["text"]),
    TaskConfig(questions=["What is heard?"], answer=["labels.sound"]),
]
TEACHERS = 6
MOST_OBJECTS = 100_000
"""Maximum number of clips that are built as Python objects; more do not fit into memory."""
READ_BY_A_WORKER = 20_000
"""Number of examples that a worker builds before its memory is measured."""


def anonymous() -> int:
    """Returns the private bytes of this process: its heap, without mapped files."""
    text = Path("/proc/self/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return 1024 * int(fields["Anonymous"].split()[0])


class Watch:
    """Measures CPU seconds and memory, including its peak, in a context."""

    def __enter__(self) -> Watch:
        self._before, self._began = anonymous(), time.process_time()
        self.peak, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, anonymous() - self._before)

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began
        self.memory = anonymous() - self._before
        self.peak = max(self.peak, self.memory)
        self._ended.set()
        self._thread.join()


def make_cache(folder: Path, clips: int) -> None:
    """Makes a corpus, and a cache of six teachers that have targets for nearly all its clips."""
    corpus = make_corpus(folder / "corpora" / "corpus", clips, labelled=True)
    layout = Layout.create(folder)
    layout.add_teacher(SPEC)
    make_markers(layout, corpus)
    marker_index.refresh(layout.shards(SPEC, corpus.name))
    first = Path(layout.root.path(f"teachers/{SPEC.key}"))
    for number in range(TEACHERS):
        spec = replace(SPEC, name=f"teacher{number}")
        layout.add_teacher(spec)
        Path(layout.root.path(f"teachers/{spec.key}/corpus")).symlink_to(first / "corpus")
    (first / "spec.json").unlink()


def open_as_a_rank(folder: Path) -> Any:
    """Does the work of each rank before its model: streams, examples, the order of an epoch."""
    streams = open_streams([str(folder)], None)
    assert len(streams) == TEACHERS
    corpus = Corpus(folder / "corpora" / "corpus")
    table = open_examples(folder / "examples", corpus, streams, DataConfig(tasks=TASKS))
    learning = table.learning()
    drawn = learning.drawn(256), table.held_out().drawn(256)
    order = BlockShuffle(learning.shards(), batch_size=8, lanes=64, seed=0)
    next(iter(order))
    return streams, table, learning, drawn, order


def work(objects: Any) -> None:
    """Does the work of a data worker: builds examples, and looks up their targets."""
    streams, _, learning, _, _ = objects
    stream = streams[f"teacher0.{STREAM.name}"]
    for place in np.random.default_rng(0).integers(len(learning), size=READ_BY_A_WORKER).tolist():
        stream.covers(learning[place].clip_ids[0])


def measure(step: str, folder: Path) -> list[float]:
    """Returns (CPU seconds, bytes at the end, bytes at the peak) of one step in this process."""
    corpus = Corpus(folder / "corpora" / "corpus")
    if step == "worker":
        objects = open_as_a_rank(folder)
        reading, writing = os.pipe()
        if os.fork() == 0:
            before = _private()
            with Watch() as watch:
                work(objects)
            own = _private() - before
            os.write(writing, json.dumps([watch.seconds, own, own]).encode())
            os._exit(0)
        return json.loads(os.read(reading, 4096))
    if step == "datasets":
        import datasets

        datasets.disable_progress_bars()
        files = sorted(map(str, (folder / "corpora" / "corpus").glob("*.parquet")))
        with Watch() as watch:
            objects: Any = datasets.load_dataset(
                "parquet", data_files=files, split="train", cache_dir=str(folder / "datasets")
            )
    elif step == "objects":
        with Watch() as watch:
            clips = {clip.clip_id: clip for clip in corpus.clips()}
            objects = clips, list(build_examples(clips.values(), TASKS))
    else:
        with Watch() as watch:
            objects = open_as_a_rank(folder)
    del objects
    return [watch.seconds, watch.memory, watch.peak]


def _private() -> int:
    """Returns the bytes that this process shares with no other process."""
    text = Path("/proc/self/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return 1024 * int(fields["Private_Dirty"].split()[0])


def run_in_process(step: str, folder: Path) -> list[float]:
    """Runs `measure` in a separate process."""
    command = [sys.executable, "-m", "benchmarks.student_examples", "--measure", step]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, "--folder", str(folder)], check=True, stdout=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    return json.loads(ran.stdout.splitlines()[-1])


def examples_table(clips: int, keep: Path | None = None) -> Table:
    """Builds the table of time and memory of each process that opens the examples.

    Args:
        clips: Clips of the corpus.
        keep: Folder of earlier results.
    """
    table = Table(title=f"Opening a run's examples: {clips:,} clips, two tasks, six streams")
    for heading in ("process", "CPU s", "memory, MB", "at its peak", "bytes a clip, peak"):
        table.add_column(heading, justify="right" if heading != "process" else "left")
    rows = None if keep is None else keep / f"examples-{clips}"
    with contextlib.ExitStack() as stack:
        place = rows or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coat-bench-")))
        few, folder = place / "few", place / "cache"

        def make() -> str:
            shutil.rmtree(place, ignore_errors=True)
            make_corpus(few / "corpora" / "corpus", min(clips, MOST_OBJECTS), labelled=True)
            make_cache(folder, clips)
            return "corpus and cache are there"

        load_or_measure(rows, "made", make)
        factor = clips / min(clips, MOST_OBJECTS)
        scaled = "" if factor == 1 else f" (scaled from {MOST_OBJECTS:,})"
        steps = [
            ("objects", f"before: Python objects, no streams{scaled}", few, factor),
            ("rank", "the first of a run, which makes them", folder, 1),
            ("rank", "every other one, and when a run goes on", folder, 1),
            ("worker", f"a worker forked from it, after {READ_BY_A_WORKER:,} examples", folder, 1),
            ("datasets", "peer: datasets, clips alone, first", folder, 1),
            ("datasets", "peer: every other one", folder, 1),
        ]
        for number, (step, label, where, scale) in enumerate(steps):
            measure_step = functools.partial(run_in_process, step, where)
            values = load_or_measure(rows, f"{number}-{step}", measure_step)
            seconds, memory, peak = (scale * value for value in values)
            table.add_row(
                label, f"{seconds:,.1f}", f"{memory / 1e6:,.0f}", f"{peak / 1e6:,.0f}",
                f"{peak / clips:,.0f}",
            )  # fmt: skip
    return table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="folder of rows that are measured already")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder)))
        return
    console.print(describe())
    console.print(str(datetime.date.today()))
    console.print(examples_table(options.clips, options.keep))


if __name__ == "__main__":
    main()
