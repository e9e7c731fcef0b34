"""Tests for typical faults of large builds, on real Ray clusters on this machine.

After each fault, or after running the same command again, the cache equals that of an undisturbed
build: no clip is lost, none is wrongly recorded as failed, and nothing hangs.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from manifests.clips import Clip
from manifests.corpus import corpus as corpora
from manifests.corpus.corpus import Corpus
from manifests.storage import Folder
from tests.pipeline.conftest import noise_corpus
from tests.pipeline.flaky_store import FlakyStore, flaky
from tests.pipeline.nodes import Build, Node, cache_contents, wait_until

CLIPS = 24


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Six shards of clean clips."""
    return noise_corpus(tmp_path_factory.mktemp("noise"), CLIPS)


@pytest.fixture(scope="module")
def undisturbed(
    corpus: Corpus, node: Node, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple]:
    """Contents of the cache of an undisturbed build."""
    cache = tmp_path_factory.mktemp("undisturbed") / "cache"
    code, output = Build(corpus, cache, node=node, block_clips=2).run()
    assert code == 0, output
    return cache_contents(cache)


def count_markers(cache: Path | str) -> int:
    return len(list(Path(cache).glob("teachers/*/*/markers/*.json")))


def error_line(output: str) -> str:
    """Returns the error line of a command; log lines may precede it, a traceback may not."""
    assert "Traceback" not in output, output
    errors = [line for line in output.splitlines() if line.startswith("coat-cache: ")]
    assert len(errors) == 1, output
    return errors[0]


@pytest.fixture
def store(s3: fs.FileSystem) -> Iterator[FlakyStore]:
    with flaky(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        yield proxy


@pytest.fixture
def remote_build(
    s3: fs.FileSystem, store: FlakyStore, corpus: Corpus, tmp_path: Path
) -> Callable[..., Build]:
    """Makes builds of the same clips with their audio in the flaky store."""
    clips = []
    for clip in corpus.clips():
        Folder("s3://data/flaky").write_atomic(clip.clip_id, Path(clip.uri).read_bytes())
        uri = f"s3://data/flaky/{clip.clip_id}"
        clips.append(Clip(clip_id=clip.clip_id, uri=uri, duration=clip.duration))
    remote = corpora.build(clips, tmp_path / "corpus", clips_per_shard=4)

    def make(sleep_s: float, **options: float) -> Build:
        build = Build(
            remote, tmp_path / "cache", runtime={"sleep_s": sleep_s}, block_clips=2, **options
        )
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        build.environment = {name: os.environ[name] for name in names} | {
            "AWS_ENDPOINT_URL": store.address,
            "AWS_EC2_METADATA_DISABLED": "true",
            "no_proxy": "127.0.0.1",
        }
        return build

    return make


def test_build_survives_a_store_that_is_unreachable_for_20_s(
    remote_build: Callable[..., Build], store: FlakyStore, undisturbed: dict[int, tuple]
):
    build = remote_build(0.0)
    store.mode = "away"
    process = build.start()
    wait_until(lambda: store.requests or process.poll() is not None)
    time.sleep(20)
    store.mode = "open"
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert cache_contents(build.cache) == undisturbed


def test_expired_credentials_end_the_build_without_failed_clips(
    remote_build: Callable[..., Build],
    store: FlakyStore,
    undisturbed: dict[int, tuple],
):
    build = remote_build(0.0, retry_seconds=3)
    store.mode = "expired"
    code, output = build.run()
    assert code == 2, output
    assert "no clip is recorded as failed" in error_line(output)
    assert "Unhandled error" not in output
    assert not count_markers(build.cache)
    store.mode = "open"
    assert build.run()[0] == 0
    assert cache_contents(build.cache) == undisturbed


def test_build_survives_a_broken_worker_process(
    corpus: Corpus, node: Node, undisturbed: dict[int, tuple], tmp_path: Path
):
    runtime = {"broken_gpu_file": str(tmp_path / "broken")}
    build = Build(corpus, tmp_path / "cache", node=node, runtime=runtime, block_clips=2)
    code, output = build.run()
    assert code == 0, output
    assert "CUDA error" in output
    assert cache_contents(build.cache) == undisturbed


def test_build_survives_nodes_that_cannot_load_or_are_preempted(
    corpus: Corpus, undisturbed: dict[int, tuple], tmp_path: Path
):
    nodes = [Node()]
    try:
        nodes.append(Node(head=nodes[0], num_cpus=1, name="broken"))
        nodes.append(Node(head=nodes[0], num_cpus=1, name="spot"))
        nodes.append(Node(head=nodes[0], num_cpus=1, name="steady"))
        runtime = {"fail_load_on": "broken", "sleep_s": 0.5}
        build = Build(corpus, tmp_path / "cache", node=nodes[0], runtime=runtime, block_clips=1)
        process = build.start()
        wait_until(lambda: nodes[2].workers("extract") or process.poll() is not None)
        nodes[2].kill()
        assert count_markers(build.cache) < 6, "the node was lost too late to matter"
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert re.search(r"node \S+ is avoided for teacher energy: .*ECC", " ".join(output.split()))
        assert cache_contents(build.cache) == undisturbed
    finally:
        for node in reversed(nodes):
            node.kill()


def test_named_pipe_is_recorded_as_unreadable(corpus: Corpus, node: Node, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.wav")
    clips = [*list(corpus.clips())[:3], Clip(clip_id="pipe", uri=str(tmp_path / "pipe.wav"))]
    mixed = corpora.build(clips, tmp_path / "corpus", clips_per_shard=4)
    build = Build(mixed, tmp_path / "cache", node=node)
    code, output = build.run()
    assert code == 0, output
    ((rows, (failure,), _),) = cache_contents(build.cache).values()
    assert (len(rows), failure.clip_id, failure.error) == (3, "pipe", "unreadable")


def test_commit_that_runs_out_of_memory_ends_the_build(corpus: Corpus, node: Node, tmp_path: Path):
    build = Build(corpus, tmp_path / "cache", node=node, runtime={"kill_committer": True})
    code, output = build.run()
    assert code == 2, output
    assert re.search(
        r"committing shard \d of energy has cost 3 workers.*memory", error_line(output)
    )
    assert not count_markers(build.cache)


def test_full_disk_ends_the_build_and_space_lets_it_resume(
    corpus: Corpus, node: Node, undisturbed: dict[int, tuple], tmp_path: Path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this system does not let us mount a small disk")
    try:
        build = Build(corpus, disk / "cache", node=node, block_clips=2)
        code, output = build.run()
        assert code == 2, output
        assert "No space left" in error_line(output)
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert build.run()[0] == 0
        assert cache_contents(build.cache) == undisturbed
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGTERM], 143), ([signal.SIGTERM] * 30, 143), ([signal.SIGINT] * 3, 130)],
    ids=["SIGTERM", "many SIGTERM", "SIGINT"],
)
def test_signals_end_the_build_with_their_exit_code(
    corpus: Corpus, undisturbed: dict[int, tuple], tmp_path: Path, signals: list[int], code: int
):
    build = Build(corpus, tmp_path / "cache", runtime={"sleep_s": 0.3}, block_clips=2)
    process = build.start()
    wait_until(lambda: count_markers(build.cache) or process.poll() is not None)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert error_line(output) == "coat-cache: interrupted; run the same command to resume"
    assert "***" not in output, "a native stack trace"
    if code == 143:
        assert build.run()[0] == 0
        assert cache_contents(build.cache) == undisturbed


def test_too_long_temporary_folder_prints_one_line(corpus: Corpus, tmp_path: Path):
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    build = Build(corpus, tmp_path / "cache")
    build.environment = {"TMPDIR": str(folder)}
    code, output = build.run()
    assert (code, "set TMPDIR to a shorter path" in error_line(output)) == (2, True)


def test_relative_cache_path_is_resolved_on_the_driver(
    corpus: Corpus, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    code, output = Build(corpus, "cache", node=node).run()
    assert code == 0, output
    assert len(cache_contents(tmp_path / "cache")) == 6
