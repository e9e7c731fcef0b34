"""Tests for faults of every class in builds on an in-process cluster, without Ray."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from manifests.cache import marker_index, shards
from manifests.cache.layout import Layout
from manifests.cache.shards import Failure
from manifests.corpus.corpus import Corpus
from manifests.errors import StoreError, UserError
from pipeline.build import plan, recovery, scheduler, setup
from pipeline.build.scheduler import Scheduler
from pipeline.config import BuildConfig, Resources, TeacherConfig
from tests.pipeline.conftest import ENERGY, MakeCorpus
from tests.pipeline.in_process import Fault, InProcess, NoProgress, Process, ProcessDies
from tests.pipeline.nodes import cache_contents


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens pauses and limits to hundredths of a second."""
    monkeypatch.setattr(recovery, "pause", lambda attempts: 0.05)
    monkeypatch.setattr(scheduler, "GROW_EVERY_S", 0.05)
    monkeypatch.setattr(scheduler, "CHECK_EVERY_S", 0.05)
    monkeypatch.setattr("pipeline.build.worker.QUICK_TRIES", 1)


@dataclass
class InProcessBuild:
    """A build on an in-process cluster."""

    corpus: Corpus
    cache: Path
    fault: Fault | None = None
    nodes: dict[str, dict[str, float]] = field(default_factory=lambda: {"a": {"CPU": 2}})
    options: dict[str, Any] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    retry_failures: bool = False

    def go(self) -> InProcess:
        config = BuildConfig(
            corpus=self.corpus.folder.uri,
            cache=str(self.cache),
            preset="none",
            teacher={
                "energy": TeacherConfig(
                    family=ENERGY, runtime=self.runtime, resources=self.resources
                )
            },
            **{"block_clips": 2, "retry_seconds": 0.5, **self.options},
        )
        setups = setup.teachers(config)
        layout = Layout.create(config.cache)
        layout.register(self.corpus)
        for teacher in setups:
            layout.add_teacher(teacher.spec)
        specs = [teacher.spec for teacher in setups]
        if self.retry_failures:
            work = plan.rework(self.corpus, plan.failed(layout, self.corpus, specs))
        else:
            work = plan.work(self.corpus, plan.missing(layout, self.corpus, specs))
        folders = {
            teacher.name: layout.shards(teacher.spec, self.corpus.name) for teacher in setups
        }
        backend = InProcess(self.nodes, self.fault)
        start = time.monotonic()

        def check() -> None:
            assert time.monotonic() - start < 30, "the build hangs"

        Scheduler(
            backend,
            setups,
            work,
            folders,
            config,
            NoProgress(),
            accept_failures=self.retry_failures,
            check_stop=check,
        ).run()
        return backend


def failures(cache: Path) -> list[Failure]:
    layout = Layout.open(cache)
    folder = layout.shards(layout.teacher("energy"), "corpus")
    return [
        failure
        for marker in marker_index.read_markers(folder)
        for failure in shards.read_failures(folder, marker)
    ]


def count_committed(cache: Path) -> int:
    return len(list(cache.glob("teachers/*/*/markers/*.json")))


def fail_decoding_while(condition: Callable[[], bool], action: Callable[[], None]) -> Fault:
    """Returns a fault that runs an action in each decoding while a condition holds."""

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "decode" and condition():
            action()

    return fault


def raise_error(error: BaseException) -> None:
    raise error


def test_temporarily_unreachable_store_loses_no_clip(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(12)
    InProcessBuild(corpus, tmp_path / "undisturbed").go()
    available_again = time.monotonic() + 0.3
    unreachable = fail_decoding_while(
        lambda: time.monotonic() < available_again, lambda: raise_error(StoreError("timed out"))
    )
    InProcessBuild(corpus, tmp_path / "cache", unreachable).go()
    assert cache_contents(tmp_path / "cache") == cache_contents(tmp_path / "undisturbed")


def test_permanently_unreachable_store_stops_the_build_without_failed_clips(
    make_corpus: MakeCorpus, tmp_path: Path
):
    corpus = make_corpus(12)
    unreachable = fail_decoding_while(lambda: True, lambda: raise_error(StoreError("ExpiredToken")))
    with pytest.raises(UserError, match=r"ExpiredToken.*no clip is recorded.*same command"):
        InProcessBuild(corpus, tmp_path / "cache", unreachable).go()
    assert count_committed(tmp_path / "cache") == 0
    InProcessBuild(corpus, tmp_path / "cache").go()
    assert not failures(tmp_path / "cache")


def test_one_unreachable_clip_leaves_only_its_shard_unbuilt(
    make_corpus: MakeCorpus, tmp_path: Path
):
    corpus = make_corpus(12)

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "decode" and any(clip.clip_id == "clip0005" for clip in arguments[0]):
            raise StoreError("403 on this one")
        time.sleep(0.03)

    with pytest.raises(UserError, match=r"1 shard was not built.*403"):
        InProcessBuild(corpus, tmp_path / "cache", fault).go()
    assert count_committed(tmp_path / "cache") == 2
    assert not failures(tmp_path / "cache")


def test_unmounted_audio_is_not_recorded_as_failed(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(6)
    (tmp_path / "audio").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"none of the 6 audio files .*mounted"):
        InProcessBuild(corpus, tmp_path / "cache").go()
    assert count_committed(tmp_path / "cache") == 0
    (tmp_path / "elsewhere").rename(tmp_path / "audio")
    InProcessBuild(corpus, tmp_path / "cache").go()
    assert not failures(tmp_path / "cache")


def test_one_missing_file_is_a_failure_of_its_clip(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(6)
    (tmp_path / "audio" / "0003.wav").unlink()
    InProcessBuild(corpus, tmp_path / "cache").go()
    assert [(f.clip_id, f.error, f.cause) for f in failures(tmp_path / "cache")] == [
        ("clip0003", "missing", "clip")
    ]


def broken_worker(number: int, error: Exception) -> Fault:
    """Returns a fault that makes every extraction of one worker fail."""

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if process.number == number and method == "extract":
            teacher = next(iter(process.worker._runners.values())).teacher
            teacher.extract = lambda waves: raise_error(error)  # type: ignore[method-assign]

    return fault


@pytest.mark.parametrize("message", ["CUDA error: an illegal memory access", "unknown error"])
def test_broken_process_loses_no_clip(make_corpus: MakeCorpus, tmp_path: Path, message: str):
    corpus = make_corpus(40)
    fault = broken_worker(0, RuntimeError(message))
    backend = InProcessBuild(
        corpus, tmp_path / "cache", fault, options={"max_failure_rate": 1.0}
    ).go()
    assert not failures(tmp_path / "cache")
    assert len(backend.started) > 2, "the broken process was not replaced"


def test_broken_process_of_a_pool_of_one_is_replaced(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(12)
    fault = broken_worker(0, RuntimeError("unknown error"))
    InProcessBuild(corpus, tmp_path / "cache", fault, nodes={"a": {"CPU": 1}}).go()
    assert not failures(tmp_path / "cache")


def test_clip_that_fails_in_two_processes_is_recorded(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(8, loud=[4, 5, 6, 7])
    InProcessBuild(corpus, tmp_path / "cache", runtime={"raise_above": 0.6}).go()
    assert {f.clip_id for f in failures(tmp_path / "cache")} == {
        f"clip{index:04d}" for index in (4, 5, 6, 7)
    }


def test_clip_that_crashes_two_workers_is_recorded_as_worker_died(
    make_corpus: MakeCorpus, tmp_path: Path
):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "decode" and any(clip.clip_id == "clip0002" for clip in arguments[0]):
            raise ProcessDies

    InProcessBuild(make_corpus(6), tmp_path / "cache", fault).go()
    (failure,) = failures(tmp_path / "cache")
    assert (failure.clip_id, failure.error, failure.cause) == ("clip0002", "worker-died", "worker")


@pytest.mark.parametrize("cause", ["node", "killed", "memory"])
def test_preempted_nodes_lose_no_clip(make_corpus: MakeCorpus, tmp_path: Path, cause: str):
    deaths = iter(range(5))

    def fault(process: Process, method: str, arguments: tuple) -> None:
        is_hit = method == "decode" and any(clip.clip_id == "clip0002" for clip in arguments[0])
        if is_hit and next(deaths, None) is not None:
            raise ProcessDies(cause)  # type: ignore[arg-type]

    InProcessBuild(make_corpus(6), tmp_path / "cache", fault, options={"block_clips": 1}).go()
    assert not failures(tmp_path / "cache")


def test_lost_results_of_a_node_are_computed_again(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(24)
    InProcessBuild(corpus, tmp_path / "undisturbed").go()
    lost: list[str] = []

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "commit" and not lost:
            lost.append("b")
            process.backend.lose("b")

    nodes = {"a": {"CPU": 2.0}, "b": {"CPU": 2.0}}
    InProcessBuild(corpus, tmp_path / "cache", fault, nodes=nodes).go()
    assert lost
    assert cache_contents(tmp_path / "cache") == cache_contents(tmp_path / "undisturbed")


def test_hanging_clip_times_out_and_the_build_completes(make_corpus: MakeCorpus, tmp_path: Path):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "decode" and any(clip.clip_id == "clip0002" for clip in arguments[0]):
            time.sleep(3600)

    corpus = make_corpus(4)
    start = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.build.time_limits.SECONDS_PER_AUDIO_SECOND", 0.0)
        InProcessBuild(corpus, tmp_path / "cache", fault, options={"hang_seconds": 4}).go()
    (failure,) = failures(tmp_path / "cache")
    assert (failure.clip_id, failure.error, failure.cause) == ("clip0002", "timed-out", "worker")
    assert time.monotonic() - start < 90


def test_worker_that_never_loads_is_replaced(make_corpus: MakeCorpus, tmp_path: Path):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "start" and process.number == 0:
            time.sleep(3600)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.build.time_limits.GRACES_TO_START", 1)
        patch.setattr("pipeline.build.time_limits.LEAST_S", 0.0)
        run = InProcessBuild(make_corpus(4), tmp_path / "cache", fault, nodes={"a": {"CPU": 1}})
        run.options["hang_seconds"] = 1
        run.go()
    assert not failures(tmp_path / "cache")


@pytest.mark.parametrize(
    "error", [RuntimeError("uncorrectable ECC error"), UserError("no weights")]
)
def test_node_that_cannot_load_is_avoided_and_named(
    make_corpus: MakeCorpus, tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "start" and process.worker.node_id == "bad":
            raise error
        time.sleep(0.02)

    nodes = {"bad": {"CPU": 2.0}, "good": {"CPU": 2.0}}
    backend = InProcessBuild(make_corpus(24), tmp_path / "cache", fault, nodes=nodes).go()
    assert not failures(tmp_path / "cache")
    assert f"node bad is avoided for teacher energy: {''}" in caplog.text
    assert str(error) in caplog.text
    assert backend.started.count("bad") <= 4


def test_build_ends_when_no_node_can_load(make_corpus: MakeCorpus, tmp_path: Path):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "start":
            raise RuntimeError("uncorrectable ECC error")

    with pytest.raises(UserError, match=r"no worker for teacher energy can start.*ECC"):
        InProcessBuild(make_corpus(4), tmp_path / "cache", fault).go()


def test_commit_that_crashes_three_workers_ends_the_build(make_corpus: MakeCorpus, tmp_path: Path):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "commit":
            raise ProcessDies

    with pytest.raises(UserError, match=r"committing shard .* has cost 3 workers.*memory"):
        InProcessBuild(make_corpus(4), tmp_path / "cache", fault).go()


def test_node_that_does_not_see_the_audio_is_avoided(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(40)

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "decode" and process.worker.node_id == "bad":
            arguments[0][:] = [
                type(clip)(clip_id=clip.clip_id, uri="/not/mounted.wav") for clip in arguments[0]
            ]
        elif method == "decode":
            for clip in arguments[0]:
                assert clip.clip_id
            arguments[0][:] = [by_id[clip.clip_id] for clip in arguments[0]]

    by_id = {clip.clip_id: clip for clip in corpus.clips()}
    nodes = {"bad": {"CPU": 1.0}, "good": {"CPU": 1.0}}
    InProcessBuild(corpus, tmp_path / "cache", fault, nodes=nodes).go()
    assert not failures(tmp_path / "cache")


def test_small_share_of_bad_clips_never_stops_a_build(make_corpus: MakeCorpus, tmp_path: Path):
    """Decoding runs ahead of the teacher, so its failures are counted among the decoded clips."""
    corpus = make_corpus(240, shard=60)
    for index in range(0, 240, 6):
        (tmp_path / "audio" / f"{index:04d}.wav").write_text("this is text")
    InProcessBuild(corpus, tmp_path / "cache", runtime={"sleep_s": 0.02}).go()
    assert len(failures(tmp_path / "cache")) == 40


def test_retry_failures_accepts_clips_that_fail_again(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(160, shard=16)
    kept = {}
    for index in range(0, 160):
        path = tmp_path / "audio" / f"{index:04d}.wav"
        kept[index] = path.read_bytes()
        path.write_text("this is text")
    InProcessBuild(corpus, tmp_path / "cache", options={"max_failure_rate": 1.0}).go()
    for index in range(150, 160):
        (tmp_path / "audio" / f"{index:04d}.wav").write_bytes(kept[index])
    InProcessBuild(corpus, tmp_path / "cache", retry_failures=True).go()
    assert len(failures(tmp_path / "cache")) == 150


@pytest.mark.parametrize(
    ("malformed", "reason"),
    [
        ("few", "ValueError"),
        ("stream", "bad-result"),
        ("nan", "bad-result"),
        ("numpy", "bad-result"),
    ],
)
def test_malformed_results_are_failures_of_their_clips_only(
    make_corpus: MakeCorpus, tmp_path: Path, malformed: str, reason: str
):
    InProcessBuild(make_corpus(6), tmp_path / "cache", runtime={"malformed": malformed}).go()
    assert [failure.error for failure in failures(tmp_path / "cache")] == [reason] * 6


def test_full_disk_ends_the_build_at_once(make_corpus: MakeCorpus, tmp_path: Path):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "commit":
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write to the cache: .*No space left"):
        InProcessBuild(make_corpus(4), tmp_path / "cache", fault).go()


def test_temporarily_unreachable_cache_loses_no_shard(make_corpus: MakeCorpus, tmp_path: Path):
    tries = iter(range(4))

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "commit" and next(tries, None) is not None:
            raise OSError("AWS Error SLOW_DOWN during PutObject")

    InProcessBuild(make_corpus(4), tmp_path / "cache", fault).go()
    assert count_committed(tmp_path / "cache") == 1


def test_pool_without_free_resources_is_reported(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    monkeypatch.setattr("pipeline.build.staffing.WAITING_REPORTED_AFTER_S", 0.2)
    available = InProcess.available
    first_call: list[float] = []

    def busy_for_a_second(self: InProcess) -> dict[str, float]:
        first_call.append(time.monotonic())
        return {"CPU": 0.0} if first_call[-1] < first_call[0] + 1 else available(self)

    monkeypatch.setattr(InProcess, "available", busy_for_a_second)
    InProcessBuild(make_corpus(4), tmp_path / "cache").go()
    assert re.search(
        r"no worker for teacher energy since \d\d:\d\d:\d\d: no node has room", caplog.text
    )


def test_workers_that_a_live_node_cancels_end_the_build(make_corpus: MakeCorpus, tmp_path: Path):
    """The build used to start workers for ever, with several warnings a second."""
    started: list[str] = []

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "place":
            started.append(method)
            raise ProcessDies("node")

    message = "no worker for teacher energy can start on a: 10 in a row were lost as they started"
    with pytest.raises(UserError, match=message):
        InProcessBuild(make_corpus(4), tmp_path / "cache", fault).go()
    assert 10 <= len(started) <= 12


def test_memory_is_counted_by_node(make_corpus: MakeCorpus, tmp_path: Path):
    worker_counts: list[float] = []

    def fault(process: Process, method: str, arguments: tuple) -> None:
        time.sleep(0.01)
        worker_counts.append(len(process.backend.processes))

    nodes = {"small": {"CPU": 2.0, "object_store_memory": 1e5}, "large": {"CPU": 2.0}}
    InProcessBuild(make_corpus(24), tmp_path / "cache", fault, nodes=nodes).go()
    assert not failures(tmp_path / "cache")


def test_part_option_splits_shards_over_builds(make_corpus: MakeCorpus, tmp_path: Path):
    config = BuildConfig(corpus="c", cache="d", part="2/3")
    assert config.shards_of_part(range(8)) == [1, 4, 7]
    for wrong in ("0/3", "4/3", "x", "1/"):
        with pytest.raises(UserError, match="part must be I/N"):
            BuildConfig(corpus="c", cache="d", part=wrong)
