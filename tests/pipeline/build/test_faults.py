"""Kills at random moments, full disks, races: the same command always ends in the same cache.

    COAT_FAULT_ROUNDS=300 pytest tests/pipeline/build/test_faults.py

A round is one SIGKILL, of the driver, of any worker process, or of one in the middle of a batch. A
killed driver is started again by the same command; killed workers the build must survive by itself.
What is there at the end is compared row for row with what an undisturbed build made.
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
from tests.pipeline.nodes import Build, Node, contents, kill, until

ROUNDS = int(os.environ.get("COAT_FAULT_ROUNDS", "21"))
KILLS_PER_CACHE = {"driver": 9, "worker": 3, "batch": 3}
"""Number of kills of workers, fewer than needed to record a clip as failed (twice in its block,
twice alone)."""
LOUD = 17
CLIPS = 48


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A cluster of one node with two cores that outlives the builds."""
    head = Node(num_cpus=2)
    yield head
    head.kill()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Twelve shards, with a clip that no decoder reads and one that its expert cannot stand."""
    made = noise_corpus(tmp_path_factory.mktemp("noise"), CLIPS, loud=[LOUD])
    Path(next(made.clips()).uri).write_text("this is text")
    return made


@pytest.fixture(scope="module")
def calm(corpus: Corpus, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """An undisturbed build, done."""
    undisturbed = build(corpus, tmp_path_factory.mktemp("calm") / "cache", node)
    code, said = undisturbed.run()
    assert code == 0, said
    return undisturbed


def build(corpus: Corpus, cache: Path, node: Node, **options) -> Build:
    runtime = {"sleep_s": 0.2, "raise_above": 0.6}
    return Build(corpus, cache, node=node, runtime=runtime, block_clips=2, **options)


def markers(cache: Path) -> int:
    return len(list(cache.glob("teachers/*/*/markers/*.json")))


def strike(victim: str, driver: subprocess.Popen, node: Node, cache: Path, rng: random.Random):
    """Kills at a moment of its choice; whether it did so before the build was over."""
    over = lambda: driver.poll() is not None  # noqa: E731
    if victim == "driver":
        if rng.random() < 0.7:
            before = markers(cache)
            until(lambda: over() or markers(cache) > before)
            time.sleep(rng.uniform(0, 1.5))
        else:
            time.sleep(rng.uniform(0, 5))
        alive = not over()
        driver.kill()
        return alive
    doing = "extract" if victim == "batch" else ""
    until(lambda: over() or node.workers(doing))
    time.sleep(rng.uniform(0, 0.1 if doing else 1.5))
    workers = node.workers(doing)
    return not over() and bool(workers) and kill(rng.choice(workers))


@pytest.mark.parametrize("victim", ["driver", "worker", "batch"])
def test_kills_change_nothing(victim: str, corpus: Corpus, calm: Build, node: Node, tmp_path: Path):
    expected = contents(calm.cache)
    assert sum(len(failures) for _, failures, _ in expected.values()) == 2
    rng = random.Random(f"{victim} 7")
    left = -(-ROUNDS // 3)
    while left:
        disturbed = build(corpus, tmp_path / f"cache{left}", node)
        allowed = min(left, KILLS_PER_CACHE[victim])
        driver = disturbed.start()
        while driver.poll() is None:
            if not allowed:
                driver.wait(timeout=120)
            elif strike(victim, driver, node, Path(disturbed.cache), rng):
                allowed, left = allowed - 1, left - 1
            if victim == "driver" and driver.wait() == -signal.SIGKILL:
                driver = disturbed.start()
        assert driver.returncode == 0, driver.communicate()
        assert contents(disturbed.cache) == expected


def test_a_complete_cache_takes_seconds(calm: Build):
    before = contents(calm.cache)
    began = time.monotonic()
    code, said = calm.run()
    assert (code, "nothing was computed" in said) == (0, True), said
    assert time.monotonic() - began < 10
    assert contents(calm.cache) == before


def test_two_builds_at_once_end_in_one_cache(
    corpus: Corpus, calm: Build, node: Node, tmp_path: Path
):
    half = {"num_cpus": 0.5, "max_workers": 2}
    twin = build(corpus, tmp_path / "twins", node, resources=half, decode=half)
    twins = [twin.start(), twin.start()]
    said = [process.communicate(timeout=120)[0] for process in twins]
    assert [process.returncode for process in twins] == [0, 0], said
    assert contents(tmp_path / "twins") == contents(calm.cache)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 100 kB."""
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


def test_a_full_disk_stops_the_build_and_a_larger_one_completes_it(
    corpus: Corpus, calm: Build, node: Node, disk: Path
):
    filling = build(corpus, disk / "cache", node)
    code, said = filling.run()
    assert code == 2
    assert re.search(r"^coat-cache: error: cannot write to the cache: .*No space left", said, re.M)
    assert "Traceback" not in said
    assert 0 < markers(disk / "cache") < corpus.num_shards

    assert remount(disk, "size=8m")
    assert filling.run()[0] == 0
    assert contents(filling.cache) == contents(calm.cache)


def test_a_revoked_permission_stops_the_build_until_it_is_given_again(
    corpus: Corpus, calm: Build, node: Node, disk: Path
):
    assert remount(disk, "size=8m")
    revoked = build(corpus, disk / "cache", node)
    process = revoked.start()
    until(lambda: markers(disk / "cache"))
    until(lambda: remount(disk, "ro"))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert re.search(r"^coat-cache: error: cannot write to the cache: .*Read-only", said, re.M)
    code, said = revoked.run()
    assert (code, "Traceback" in said) == (2, False), said

    assert remount(disk, "rw")
    assert revoked.run()[0] == 0
    assert contents(revoked.cache) == contents(calm.cache)


def test_a_read_only_cache_is_reported_before_the_build_starts(corpus: Corpus, disk: Path):
    assert remount(disk, "ro")
    code, said = Build(corpus, disk / "cache").run()
    assert (code, "cannot write to the cache" in said, said.count("\n")) == (2, True, 1), said
