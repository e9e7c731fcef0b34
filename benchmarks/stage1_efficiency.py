"""Compares stage 1 with simpler programs for the same task, on the same clips in one run.

    python -m benchmarks.stage1_efficiency --corpus demo/corpus --clips 24 --rounds 3

The job decodes, runs the five embedded experts and commits Parquet on all cores. It is compared
with a bare loop over clips that decodes and extracts, with one thread and with each library's
default number of threads; and with `datasets.map` with one process per core, then `to_parquet`.
Loading the experts is timed separately. Rounds alternate between the four, and the best time of
each counts, because the speed of a shared machine varies. The overhead is the time of the job
beyond the one-thread loop divided by the number of cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from manifests import audio
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus
from manifests.corpus.corpus import build as build_corpus
from pipeline.build.setup import TeacherSetup, teachers
from pipeline.config import BuildConfig
from pipeline.job import BuildResult, build
from teachers.protocol import Teacher

console = Console(highlight=False, width=110)


def load_teachers(setups: list[TeacherSetup], threads: int) -> list[tuple[int, Teacher]]:
    """Loads the experts, and returns (sample rate, expert) pairs."""
    loaded = []
    for setup in setups:
        teacher = setup.make()
        teacher.load(device="cpu", num_threads=threads)
        loaded.append((setup.spec.sample_rate, teacher))
    return loaded


def extract(clip: Clip, experts: list[tuple[int, Teacher]]) -> Iterator[dict[str, np.ndarray]]:
    """Decodes a clip once, and extracts with each expert."""
    wave = audio.decode(clip)
    for rate, expert in experts:
        yield expert.extract([audio.resample(wave, rate)])[0].frames


def bare_loop(clips: list[Clip], setups: list[TeacherSetup], threads: int) -> tuple[float, float]:
    """Returns (seconds of loading, seconds of extraction without writing)."""
    start_s = time.perf_counter()
    experts = load_teachers(setups, threads)
    ready = time.perf_counter()
    for clip in clips:
        for _ in extract(clip, experts):
            pass
    return ready - start_s, time.perf_counter() - ready


_EXPERTS: list[tuple[int, Teacher]] = []


def datasets_map(clips: list[Clip], setups: list[TeacherSetup], out: Path) -> float:
    """Returns the seconds of `map` with one process per core and of `to_parquet`, with loading."""
    import datasets

    datasets.disable_progress_bars()

    def extract_row(row: dict) -> dict:
        if not _EXPERTS:
            _EXPERTS.extend(load_teachers(setups, 1))
        clip = Clip(clip_id=row["clip_id"], uri=row["uri"], duration=row["duration"])
        frames = [frames for targets in extract(clip, _EXPERTS) for frames in targets.values()]
        return {f"frames{place}": value.astype(np.float16) for place, value in enumerate(frames)}

    rows = [{"clip_id": c.clip_id, "uri": c.uri, "duration": c.duration} for c in clips]
    dataset = datasets.Dataset.from_list(rows)
    start_s = time.perf_counter()
    done = dataset.map(extract_row, num_proc=os.cpu_count(), writer_batch_size=16)
    done.to_parquet(str(out / "targets.parquet"))
    return time.perf_counter() - start_s


def one_round(
    corpus: Corpus, clips: list[Clip], setups: list[TeacherSetup], cores: int
) -> tuple[tuple[float, float, float], BuildResult]:
    """Returns the seconds of the three alternatives, and the job's result, on the same clips."""
    load_one, single = bare_loop(clips, setups, 1)
    _, default = bare_loop(clips, setups, cores)
    with tempfile.TemporaryDirectory(prefix="coat-bench-") as out:
        mapped = datasets_map(clips, setups, Path(out)) - load_one
        config = BuildConfig(corpus=corpus.folder.uri, cache=f"{out}/cache")
        return (single, default, mapped), build(config, Console(quiet=True))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpus", default="demo/corpus", help="corpus of clips (default: demo's)")
    parser.add_argument("--clips", type=int, default=0, help="clips, evenly spread; 0 means all")
    parser.add_argument("--rounds", type=int, default=1, help="of which the best counts")
    options = parser.parse_args()

    all_clips = list(Corpus(options.corpus).clips())
    chosen = np.linspace(0, len(all_clips) - 1, options.clips or len(all_clips)).astype(int)
    clips = [all_clips[place] for place in chosen]
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="coat-bench-") as folder:
        corpus = build_corpus(clips, Path(folder) / "corpus", clips_per_shard=16)
        setups = teachers(BuildConfig(corpus=corpus.folder.uri, cache=""))
        console.print(describe())
        console.print(f"{len(clips)} clips, {corpus.seconds:.0f} s of audio, {len(setups)} experts")
        rounds = [one_round(corpus, clips, setups, cores) for _ in range(options.rounds)]
    single, default, mapped = (
        min(times) for times in zip(*(times for times, _ in rounds), strict=True)
    )
    outcome = min((outcome for _, outcome in rounds), key=lambda done: done.working_seconds)
    job = outcome.working_seconds

    table = Table(title="Stage 1, after start-up")
    for heading in ("", "seconds", "x real time", "the job is faster by"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, seconds in (
        ("bare loop, one thread", single),
        ("bare loop, libraries' threads", default),
        (f"datasets.map, {cores} processes, to_parquet", mapped),
        ("coat-cache build", job),
    ):
        table.add_row(
            name, f"{seconds:.1f}", f"{corpus.seconds / seconds:.2f}", f"{seconds / job:.2f}"
        )
    console.print(table)
    ideal = single / cores
    extracting = sum(outcome.extract_seconds.values())
    console.print(
        f"start-up of the job (Ray, experts): {outcome.startup_seconds:.1f} s\n"
        f"ideal (one-thread loop / {cores} cores): {ideal:.1f} s; overhead {job / ideal - 1:+.1%}\n"
        f"  experts at work: {extracting:.1f} worker seconds, the loop took {single:.1f} "
        f"({extracting / single - 1:+.1%}: two at once share caches and memory)\n"
        f"  workers not extracting (decoding, writing, waiting): "
        f"{cores * job - extracting:.1f} of {cores * job:.1f} worker seconds "
        f"({1 - extracting / (cores * job):.1%})"
    )


if __name__ == "__main__":
    main()
