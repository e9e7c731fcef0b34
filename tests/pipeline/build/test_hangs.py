"""Tests worker processes that stop answering, on a real Ray cluster.

A stopped process (SIGSTOP) stands for a GPU driver or a file system that never returns: it neither
answers Ray nor ends. The build replaces it, and the cache is what an undisturbed build makes.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import psutil
import pytest

from manifests.corpus.corpus import Corpus
from tests.pipeline.conftest import noise_corpus
from tests.pipeline.nodes import Build, Node, cache_contents, wait_until

CLIPS = 12
TIMEOUT_S = 500.0
HANG_S = 6
"""A busy machine delays calls that take a tenth of a second, so less than this is not steady."""
LIMITS = "from pipeline.build import time_limits as t; t.SECONDS_PER_AUDIO_SECOND = 0.0"
"""A task may take `hang_seconds`, however long its audio is."""
SHORT_LIMITS = f"{LIMITS}; t.GRACES_TO_START = t.GRACES_TO_COMMIT = 1; t.LEAST_S = 20.0"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three shards of clean clips."""
    return noise_corpus(tmp_path_factory.mktemp("noise"), CLIPS)


@pytest.fixture(scope="module")
def calm(corpus: Corpus, node: Node, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple]:
    """The cache of an undisturbed build."""
    cache = tmp_path_factory.mktemp("calm") / "cache"
    code, output = Build(corpus, cache, node=node, block_clips=1).run(TIMEOUT_S)
    assert code == 0, output
    return cache_contents(cache)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("method", "doing"), [("extract", "running energy on"), ("decode", "decoding")]
)
def test_stopped_worker_is_replaced(
    corpus: Corpus, node: Node, calm: dict[int, tuple], tmp_path: Path, method: str, doing: str
):
    runtime = {"sleep_s": 0.5}
    build = Build(
        corpus, tmp_path / "cache", node=node, runtime=runtime, before=LIMITS, block_clips=1,
        hang_seconds=HANG_S,
    )  # fmt: skip
    process = build.start()
    stopped: list[psutil.Process] = []

    def stop() -> bool:
        for worker in node.workers(method)[:1]:
            worker.send_signal(signal.SIGSTOP)
            stopped.append(worker)
        return bool(stopped) or process.poll() is not None

    wait_until(stop, TIMEOUT_S)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert stopped, output
    assert re.search(rf"{doing} .* did not finish in {HANG_S} s", " ".join(output.split())), output
    assert cache_contents(build.cache) == calm
    wait_until(lambda: is_gone(stopped[0]))


@pytest.mark.slow
def test_stopped_commit_is_repeated(corpus: Corpus, node: Node, tmp_path: Path):
    runtime = {"stop_commit_file": str(tmp_path / "stopped")}
    build = Build(
        corpus,
        tmp_path / "cache",
        node=node,
        runtime=runtime,
        before=SHORT_LIMITS,
        hang_seconds=HANG_S,
    )
    code, output = build.run(TIMEOUT_S)
    assert code == 0, output
    assert (tmp_path / "stopped").exists()
    said = " ".join(output.split())
    assert re.search(r"committing shard \d of energy did not finish in 20 s", said), output
    assert [len(rows) for rows, *_ in cache_contents(build.cache).values()] == [4, 4, 4]


@pytest.mark.slow
def test_worker_that_stops_while_it_loads_is_replaced(
    corpus: Corpus, node: Node, calm: dict[int, tuple], tmp_path: Path
):
    runtime = {"stop_load_file": str(tmp_path / "stopped")}
    build = Build(
        corpus, tmp_path / "cache", node=node, runtime=runtime, before=SHORT_LIMITS,
        resources={"max_workers": 1}, block_clips=1, hang_seconds=HANG_S,
    )  # fmt: skip
    code, output = build.run(TIMEOUT_S)
    assert code == 0, output
    assert (tmp_path / "stopped").exists()
    assert "its teachers did not load in 20 s" in " ".join(output.split()), output
    assert cache_contents(build.cache) == calm
