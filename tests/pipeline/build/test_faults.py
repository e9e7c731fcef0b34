"""Tests that kills at random moments, full disks and races always end in the same cache.

    COAT_FAULT_ROUNDS=300 pytest tests/pipeline/build/test_faults.py

Each round sends one SIGKILL: to the driver, to any worker, or to a worker in the middle of a batch.
A killed driver is started again with the same command; the build must survive killed workers by
itself. The final cache is compared row by row with that of an undisturbed build.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.corpus.corpus import Corpus
from tests.pipeline.conftest import noise_corpus
from tests.pipeline.nodes import Build, Node, cache_contents, kill, wait_until

ROUNDS = int(os.environ.get("COAT_FAULT_ROUNDS", "21"))
KILLS_PER_CACHE = {"driver": 9, "worker": 3, "batch": 3}
"""Number of kills for each cache: too few to record a clip as failed (twice in its block and twice
alone)."""
LOUD = 17
CLIPS = 48


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Twelve shards, with one clip that cannot be decoded and one on which the teacher fails."""
    made = noise_corpus(tmp_path_factory.mktemp("noise"), CLIPS, loud=[LOUD])
    Path(next(made.clips()).uri).write_text("this is text")
    return made


@pytest.fixture(scope="module")
def undisturbed(corpus: Corpus, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A finished, undisturbed build."""
    undisturbed = build(corpus, tmp_path_factory.mktemp("undisturbed") / "cache", node)
    code, output = undisturbed.run()
    assert code == 0, output
    return undisturbed


def build(corpus: Corpus, cache: Path, node: Node, **options) -> Build:
    runtime = {"sleep_s": 0.2, "raise_above": 0.6}
    return Build(corpus, cache, node=node, runtime=runtime, block_clips=2, **options)


def count_markers(cache: Path) -> int:
    return len(list(cache.glob("teachers/*/*/markers/*.json")))


def kill_at_random_moment(
    victim: str, driver: subprocess.Popen, node: Node, cache: Path, rng: random.Random
):
    """Kills a process at a random moment; returns whether the build was still running."""
    has_ended = lambda: driver.poll() is not None  # noqa: E731
    if victim == "driver":
        if rng.random() < 0.7:
            before = count_markers(cache)
            wait_until(lambda: has_ended() or count_markers(cache) > before)
            time.sleep(rng.uniform(0, 1.5))
        else:
            time.sleep(rng.uniform(0, 5))
        alive = not has_ended()
        driver.kill()
        return alive
    method = "extract" if victim == "batch" else ""
    wait_until(lambda: has_ended() or node.workers(method))
    time.sleep(rng.uniform(0, 0.1 if method else 1.5))
    workers = node.workers(method)
    return not has_ended() and bool(workers) and kill(rng.choice(workers))


@pytest.mark.parametrize("victim", ["driver", "worker", "batch"])
def test_killed_builds_end_in_the_same_cache(
    victim: str, corpus: Corpus, undisturbed: Build, node: Node, tmp_path: Path
):
    expected = cache_contents(undisturbed.cache)
    assert sum(len(failures) for _, failures, _ in expected.values()) == 2
    rng = random.Random(f"{victim} 7")
    rounds_left = -(-ROUNDS // 3)
    while rounds_left:
        disturbed = build(corpus, tmp_path / f"cache{rounds_left}", node)
        allowed = min(rounds_left, KILLS_PER_CACHE[victim])
        driver = disturbed.start()
        while driver.poll() is None:
            if not allowed:
                driver.wait(timeout=120)
            elif kill_at_random_moment(victim, driver, node, Path(disturbed.cache), rng):
                allowed, rounds_left = allowed - 1, rounds_left - 1
            if victim == "driver" and driver.wait() == -signal.SIGKILL:
                driver = disturbed.start()
        assert driver.returncode == 0, driver.communicate()
        assert cache_contents(disturbed.cache) == expected


def test_complete_cache_is_confirmed_in_seconds(undisturbed: Build):
    before = cache_contents(undisturbed.cache)
    start = time.monotonic()
    code, output = undisturbed.run()
    assert (code, "nothing was computed" in output) == (0, True), output
    assert time.monotonic() - start < 10
    assert cache_contents(undisturbed.cache) == before


def test_concurrent_builds_end_in_the_same_cache(
    corpus: Corpus, undisturbed: Build, node: Node, tmp_path: Path
):
    half = {"num_cpus": 0.5, "max_workers": 2}
    both = build(corpus, tmp_path / "both", node, resources=half, decode=half)
    processes = [both.start(), both.start()]
    output = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output
    assert cache_contents(tmp_path / "both") == cache_contents(undisturbed.cache)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 100 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this system does not let us mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(disk: Path, option: str) -> bool:
    command = ["mount", "-o", f"remount,{option}", str(disk)]
    return not subprocess.run(command, capture_output=True).returncode


def test_full_disk_stops_the_build_and_more_space_completes_it(
    corpus: Corpus, undisturbed: Build, node: Node, disk: Path
):
    filling = build(corpus, disk / "cache", node)
    code, output = filling.run()
    assert code == 2
    assert re.search(
        r"^coat-cache: error: cannot write to the cache: .*No space left", output, re.M
    )
    assert "Traceback" not in output
    assert 0 < count_markers(disk / "cache") < corpus.num_shards

    assert remount(disk, "size=8m")
    assert filling.run()[0] == 0
    assert cache_contents(filling.cache) == cache_contents(undisturbed.cache)


def test_read_only_disk_stops_the_build_until_it_is_writable_again(
    corpus: Corpus, undisturbed: Build, node: Node, disk: Path
):
    assert remount(disk, "size=8m")
    revoked = build(corpus, disk / "cache", node)
    process = revoked.start()
    wait_until(lambda: count_markers(disk / "cache"))
    wait_until(lambda: remount(disk, "ro"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert re.search(r"^coat-cache: error: cannot write to the cache: .*Read-only", output, re.M)
    code, output = revoked.run()
    assert (code, "Traceback" in output) == (2, False), output

    assert remount(disk, "rw")
    assert revoked.run()[0] == 0
    assert cache_contents(revoked.cache) == cache_contents(undisturbed.cache)


def test_read_only_cache_is_reported_before_the_build_starts(corpus: Corpus, disk: Path):
    assert remount(disk, "ro")
    code, output = Build(corpus, disk / "cache").run()
    assert (code, "cannot write to the cache" in output, output.count("\n")) == (2, True, 1), output
