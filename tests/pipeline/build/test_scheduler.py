"""Faults of every class, planted in a build on an in-process cluster: seconds, and no Ray."""

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
from tests.pipeline.in_process import Fault, InProcess, Process, ProcessDies, Silent
from tests.pipeline.nodes import contents


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses and limits in hundredths of a second."""
    monkeypatch.setattr(recovery, "pause", lambda attempts: 0.05)
    monkeypatch.setattr(scheduler, "GROW_EVERY_S", 0.05)
    monkeypatch.setattr(scheduler, "CHECK_EVERY_S", 0.05)
    monkeypatch.setattr("pipeline.build.worker.QUICK_TRIES", 1)


@dataclass
class Run:
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
        began = time.monotonic()

        def check() -> None:
            assert time.monotonic() - began < 30, "the build hangs"

        Scheduler(
            backend,
            setups,
            work,
            folders,
            config,
            Silent(),
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


def committed(cache: Path) -> int:
    return len(list(cache.glob("teachers/*/*/markers/*.json")))


def while_(condition: Callable[[], bool], what: Callable[[], None]) -> Fault:
    """A fault of decoding as long as a condition holds."""

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "decode" and condition():
            what()

    return fault


def raise_(error: BaseException) -> None:
    raise error


def test_a_temporarily_unreachable_store_loses_no_clip(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(12)
    Run(corpus, tmp_path / "calm").go()
    back = time.monotonic() + 0.3
    away = while_(lambda: time.monotonic() < back, lambda: raise_(StoreError("timed out")))
    Run(corpus, tmp_path / "cache", away).go()
    assert contents(tmp_path / "cache") == contents(tmp_path / "calm")


def test_a_permanently_unreachable_store_stops_the_build_without_records(
    make_corpus: MakeCorpus, tmp_path: Path
):
    corpus = make_corpus(12)
    away = while_(lambda: True, lambda: raise_(StoreError("ExpiredToken")))
    with pytest.raises(UserError, match=r"ExpiredToken.*no clip is recorded.*same command"):
        Run(corpus, tmp_path / "cache", away).go()
    assert committed(tmp_path / "cache") == 0
    Run(corpus, tmp_path / "cache").go()
    assert not failures(tmp_path / "cache")


def test_one_clip_out_of_reach_leaves_its_shard_alone(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(12)

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "decode" and any(clip.clip_id == "clip0005" for clip in arguments[0]):
            raise StoreError("403 on this one")
        time.sleep(0.03)

    with pytest.raises(UserError, match=r"1 shards were not built.*403"):
        Run(corpus, tmp_path / "cache", fault).go()
    assert committed(tmp_path / "cache") == 2
    assert not failures(tmp_path / "cache")


def test_audio_that_is_not_mounted_is_not_recorded(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(6)
    (tmp_path / "audio").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"none of the 6 audio files .*mounted"):
        Run(corpus, tmp_path / "cache").go()
    assert committed(tmp_path / "cache") == 0
    (tmp_path / "elsewhere").rename(tmp_path / "audio")
    Run(corpus, tmp_path / "cache").go()
    assert not failures(tmp_path / "cache")


def test_a_missing_file_among_others_is_a_failure_of_its_clip(
    make_corpus: MakeCorpus, tmp_path: Path
):
    corpus = make_corpus(6)
    (tmp_path / "audio" / "0003.wav").unlink()
    Run(corpus, tmp_path / "cache").go()
    assert [(f.clip_id, f.error, f.cause) for f in failures(tmp_path / "cache")] == [
        ("clip0003", "missing", "clip")
    ]


def sick(number: int, error: Exception) -> Fault:
    """The first worker fails in every extraction."""

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if process.number == number and method == "extract":
            teacher = next(iter(process.worker._runners.values())).teacher
            teacher.extract = lambda waves: raise_(error)  # type: ignore[method-assign]

    return fault


@pytest.mark.parametrize("message", ["CUDA error: an illegal memory access", "it has a cold"])
def test_a_broken_process_loses_no_clip(make_corpus: MakeCorpus, tmp_path: Path, message: str):
    corpus = make_corpus(40)
    fault = sick(0, RuntimeError(message))
    backend = Run(corpus, tmp_path / "cache", fault, options={"max_failure_rate": 1.0}).go()
    assert not failures(tmp_path / "cache")
    assert len(backend.started) > 2, "the sick process was not replaced"


def test_the_only_broken_process_of_a_pool_is_replaced(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(12)
    fault = sick(0, RuntimeError("it has a cold"))
    Run(corpus, tmp_path / "cache", fault, nodes={"a": {"CPU": 1}}).go()
    assert not failures(tmp_path / "cache")


def test_two_processes_that_agree_are_believed(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(8, loud=[4, 5, 6, 7])
    Run(corpus, tmp_path / "cache", runtime={"raise_above": 0.6}).go()
    assert {f.clip_id for f in failures(tmp_path / "cache")} == {
        f"clip{index:04d}" for index in (4, 5, 6, 7)
    }


def test_a_clip_that_kills_twice_is_a_failure_of_the_worker(
    make_corpus: MakeCorpus, tmp_path: Path
):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "decode" and any(clip.clip_id == "clip0002" for clip in arguments[0]):
            raise ProcessDies

    Run(make_corpus(6), tmp_path / "cache", fault).go()
    (failure,) = failures(tmp_path / "cache")
    assert (failure.clip_id, failure.error, failure.cause) == ("clip0002", "worker-died", "worker")


@pytest.mark.parametrize("cause", ["node", "killed", "memory"])
def test_preempted_nodes_cost_no_clip(make_corpus: MakeCorpus, tmp_path: Path, cause: str):
    strikes = iter(range(5))

    def fault(process: Process, method: str, arguments: tuple) -> None:
        hit = method == "decode" and any(clip.clip_id == "clip0002" for clip in arguments[0])
        if hit and next(strikes, None) is not None:
            raise ProcessDies(cause)  # type: ignore[arg-type]

    Run(make_corpus(6), tmp_path / "cache", fault, options={"block_clips": 1}).go()
    assert not failures(tmp_path / "cache")


def test_results_are_lost_with_their_node(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(24)
    Run(corpus, tmp_path / "calm").go()
    lost: list[str] = []

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "commit" and not lost:
            lost.append("b")
            process.backend.lose("b")

    nodes = {"a": {"CPU": 2.0}, "b": {"CPU": 2.0}}
    Run(corpus, tmp_path / "cache", fault, nodes=nodes).go()
    assert lost
    assert contents(tmp_path / "cache") == contents(tmp_path / "calm")


def test_a_hanging_block_is_given_to_another_worker(make_corpus: MakeCorpus, tmp_path: Path):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "decode" and any(clip.clip_id == "clip0002" for clip in arguments[0]):
            time.sleep(3600)

    corpus = make_corpus(4)
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.build.time_limits.SECONDS_PER_AUDIO_SECOND", 0.0)
        Run(corpus, tmp_path / "cache", fault, options={"hang_seconds": 4}).go()
    (failure,) = failures(tmp_path / "cache")
    assert (failure.clip_id, failure.error, failure.cause) == ("clip0002", "timed-out", "worker")
    assert time.monotonic() - began < 90


def test_a_worker_that_never_loads_is_replaced(make_corpus: MakeCorpus, tmp_path: Path):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "start" and process.number == 0:
            time.sleep(3600)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.build.time_limits.GRACES_TO_START", 1)
        patch.setattr("pipeline.build.time_limits.LEAST_S", 0.0)
        run = Run(make_corpus(4), tmp_path / "cache", fault, nodes={"a": {"CPU": 1}})
        run.options["hang_seconds"] = 1
        run.go()
    assert not failures(tmp_path / "cache")


@pytest.mark.parametrize(
    "error", [RuntimeError("uncorrectable ECC error"), UserError("no weights")]
)
def test_a_node_that_cannot_load_is_avoided_and_named(
    make_corpus: MakeCorpus, tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "start" and process.worker.node_id == "bad":
            raise error
        time.sleep(0.02)

    nodes = {"bad": {"CPU": 2.0}, "good": {"CPU": 2.0}}
    backend = Run(make_corpus(24), tmp_path / "cache", fault, nodes=nodes).go()
    assert not failures(tmp_path / "cache")
    assert f"node bad is avoided for teacher energy: {''}" in caplog.text
    assert str(error) in caplog.text
    assert backend.started.count("bad") <= 4


def test_a_build_ends_when_no_node_can_load(make_corpus: MakeCorpus, tmp_path: Path):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "start":
            raise RuntimeError("uncorrectable ECC error")

    with pytest.raises(UserError, match=r"no worker for teacher energy can start.*ECC"):
        Run(make_corpus(4), tmp_path / "cache", fault).go()


def test_a_commit_that_kills_its_worker_ends_the_build(make_corpus: MakeCorpus, tmp_path: Path):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "commit":
            raise ProcessDies

    with pytest.raises(UserError, match=r"committing shard .* has cost 3 workers.*memory"):
        Run(make_corpus(4), tmp_path / "cache", fault).go()


def test_a_node_that_does_not_see_the_audio_is_avoided(make_corpus: MakeCorpus, tmp_path: Path):
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
    Run(corpus, tmp_path / "cache", fault, nodes=nodes).go()
    assert not failures(tmp_path / "cache")


def test_a_small_share_of_bad_clips_never_stops_a_build(make_corpus: MakeCorpus, tmp_path: Path):
    """Decoding runs ahead of the teacher: its failures are counted among what was decoded."""
    corpus = make_corpus(240, shard=60)
    for index in range(0, 240, 6):
        (tmp_path / "audio" / f"{index:04d}.wav").write_text("this is text")
    Run(corpus, tmp_path / "cache", runtime={"sleep_s": 0.02}).go()
    assert len(failures(tmp_path / "cache")) == 40


def test_retried_clips_may_fail_again(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(160, shard=16)
    kept = {}
    for index in range(0, 160):
        path = tmp_path / "audio" / f"{index:04d}.wav"
        kept[index] = path.read_bytes()
        path.write_text("this is text")
    Run(corpus, tmp_path / "cache", options={"max_failure_rate": 1.0}).go()
    for index in range(150, 160):
        (tmp_path / "audio" / f"{index:04d}.wav").write_bytes(kept[index])
    Run(corpus, tmp_path / "cache", retry_failures=True).go()
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
def test_malformed_results_are_failures_of_their_clips(
    make_corpus: MakeCorpus, tmp_path: Path, malformed: str, reason: str
):
    Run(make_corpus(6), tmp_path / "cache", runtime={"malformed": malformed}).go()
    assert [failure.error for failure in failures(tmp_path / "cache")] == [reason] * 6


def test_a_full_disk_ends_the_build_at_once(make_corpus: MakeCorpus, tmp_path: Path):
    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "commit":
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write to the cache: .*No space left"):
        Run(make_corpus(4), tmp_path / "cache", fault).go()


def test_a_temporarily_unreachable_cache_loses_nothing(make_corpus: MakeCorpus, tmp_path: Path):
    tries = iter(range(4))

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method == "commit" and next(tries, None) is not None:
            raise OSError("AWS Error SLOW_DOWN during PutObject")

    Run(make_corpus(4), tmp_path / "cache", fault).go()
    assert committed(tmp_path / "cache") == 1


def test_a_pool_without_room_is_reported(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    monkeypatch.setattr("pipeline.build.staffing.WAITING_REPORTED_AFTER_S", 0.2)
    backend_of = InProcess.available
    busy_until = time.monotonic() + 1
    monkeypatch.setattr(
        InProcess,
        "available",
        lambda self: {"CPU": 0.0} if time.monotonic() < busy_until else backend_of(self),
    )
    Run(make_corpus(4), tmp_path / "cache").go()
    assert re.search(
        r"no worker for teacher energy since \d\d:\d\d:\d\d: no node has room", caplog.text
    )


def test_room_is_counted_by_node(make_corpus: MakeCorpus, tmp_path: Path):
    held: list[float] = []

    def fault(process: Process, method: str, arguments: tuple) -> None:
        time.sleep(0.01)
        held.append(len(process.backend.processes))

    nodes = {"small": {"CPU": 2.0, "object_store_memory": 1e5}, "large": {"CPU": 2.0}}
    Run(make_corpus(24), tmp_path / "cache", fault, nodes=nodes).go()
    assert not failures(tmp_path / "cache")


def test_shards_are_split_over_builds(make_corpus: MakeCorpus, tmp_path: Path):
    config = BuildConfig(corpus="c", cache="d", part="2/3")
    assert config.shards_of_part(range(8)) == [1, 4, 7]
    for wrong in ("0/3", "4/3", "x", "1/"):
        with pytest.raises(UserError, match="part must be I/N"):
            BuildConfig(corpus="c", cache="d", part=wrong)
