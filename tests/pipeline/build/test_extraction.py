"""Tests for running a teacher over a block: out of memory, overlapping blocks, and shared GPUs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from manifests.cache import shards
from manifests.cache.layout import Layout
from pipeline.build import plan, setup
from pipeline.build.extraction import SharedClock, TeacherRunner
from pipeline.build.faults import BrokenProcess
from pipeline.build.messages import Decoded
from pipeline.build.scheduler import Scheduler
from pipeline.config import BuildConfig, Resources, TeacherConfig
from teachers.protocol import Targets
from teachers.toolkit import device
from tests.pipeline.build.test_scheduler import InProcessBuild, NoProgress, cache_contents, failures
from tests.pipeline.conftest import ENERGY, MakeCorpus
from tests.pipeline.fakes import Energy, EnergySettings
from tests.pipeline.in_process import InProcess, Process, ProcessDies
from tests.teachers import checkpoints


class SmallMemoryTeacher(Energy):
    """An energy teacher that runs out of memory with more than a few clips."""

    def __init__(self, most: int) -> None:
        super().__init__("energy", EnergySettings())
        self.most = most
        self.batches: list[int] = []

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        self.batches.append(len(waves))
        if len(waves) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().extract(waves)


def make_block(clips: int) -> Decoded:
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-0.4, 0.4, 3200).astype(np.float32) for _ in range(clips)]
    ids = [f"clip{index}" for index in range(clips)]
    return Decoded(ids, [0.2] * clips, ["digest"] * clips, {16_000: waves})


def test_block_that_exceeds_memory_is_halved_and_the_size_is_kept():
    teacher = SmallMemoryTeacher(most=3)
    runner = TeacherRunner(teacher, teacher.spec(), SharedClock())
    extracted, summary = runner.extract(make_block(8))
    assert [row.clip_id for row in extracted.rows] == [f"clip{index}" for index in range(8)]
    assert not summary.failures
    assert teacher.batches == [8, 4, 2, 2, 2, 2]
    runner.extract(make_block(4))
    assert teacher.batches[6:] == [2, 2]

    whole = TeacherRunner(Energy("energy", EnergySettings()), teacher.spec(), SharedClock())
    expected, _ = whole.extract(make_block(8))
    assert [row.frames["bands"].blob for row in extracted.rows] == [
        row.frames["bands"].blob for row in expected.rows
    ]


def test_single_clip_that_exceeds_memory_raises_broken_process():
    teacher = SmallMemoryTeacher(most=0)
    with pytest.raises(BrokenProcess, match="out of memory"):
        TeacherRunner(teacher, teacher.spec(), SharedClock()).extract(make_block(2))


def test_concurrent_calls_share_the_measured_seconds():
    clock = SharedClock()
    durations: list[float] = []

    def call() -> None:
        mark = clock.start()
        time.sleep(0.2)
        durations.append(clock.stop(mark))

    start = time.perf_counter()
    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(durations) == pytest.approx(time.perf_counter() - start, abs=0.05)


class NetworkTeacher(Energy):
    """An energy teacher that records whether blocks overlap in the network and around it."""

    overlaps = True

    def __init__(self) -> None:
        super().__init__("energy", EnergySettings())
        self.num_inside, self.max_inside, self.overlapped = 0, 0, False

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        with device.turn():
            self.num_inside += 1
            self.max_inside = max(self.max_inside, self.num_inside)
            time.sleep(0.1)
            self.num_inside -= 1
        # Work after the network waits here until another block is in the network.
        deadline = time.monotonic() + 5
        while not self.num_inside and not self.overlapped and time.monotonic() < deadline:
            time.sleep(0.001)
        self.overlapped = self.overlapped or bool(self.num_inside)
        return super().extract(waves)


def test_work_after_the_network_overlaps_with_the_next_block():
    teacher = NetworkTeacher()
    runner = TeacherRunner(teacher, teacher.spec(), SharedClock())
    threads = [threading.Thread(target=runner.extract, args=(make_block(2),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert teacher.overlapped, "one block waited until the other was finished"
    assert teacher.max_inside == 1, "two blocks were in the network at once"


def test_crashing_clip_is_identified_among_parallel_blocks(make_corpus: MakeCorpus, tmp_path: Path):
    """Two blocks run in one worker, so its crash does not show which block caused it."""
    corpus = make_corpus(12)

    def fault(process: Process, method: str, arguments: tuple) -> None:
        if method != "extract":
            return
        if "clip0005" in arguments[1].read().clip_ids:
            time.sleep(0.02)
            position = arguments[2]
            if position is None or arguments[1].read().clip_ids[position] == "clip0005":
                raise ProcessDies

    InProcessBuild(
        corpus,
        tmp_path / "cache",
        fault,
        nodes={"a": {"CPU": 3, "GPU": 1}},
        resources=Resources(num_cpus=1, num_gpus=1),
    ).go()
    assert [(f.clip_id, f.error) for f in failures(tmp_path / "cache")] == [
        ("clip0005", "worker-died")
    ]
    assert sum(len(rows) for rows, *_ in cache_contents(tmp_path / "cache").values()) == 11


def test_batch_seconds_of_a_teacher_overrides_the_common_value(tmp_path: Path):
    folder = str(checkpoints.mert(tmp_path))
    own = TeacherConfig(family="mert", settings={"model": folder}, runtime={"batch_seconds": 7.0})
    config = BuildConfig(
        corpus="corpus",
        cache="cache",
        preset="none",
        batch_seconds=90.0,
        teacher={
            "a": TeacherConfig(family="mert", settings={"model": folder}),
            "b": own,
            "c": TeacherConfig(family=ENERGY),
        },
    )
    stated = {item.name: item.settings.get("batch_seconds") for item in setup.teachers(config)}
    assert stated == {"a": 90.0, "b": 7.0, "c": None}


def test_teachers_on_one_gpu_share_a_worker_and_decoded_clips(
    make_corpus: MakeCorpus, tmp_path: Path
):
    corpus = make_corpus(12)
    gpu = Resources(num_cpus=1, num_gpus=1)
    config = BuildConfig(
        corpus=corpus.folder.uri,
        cache=str(tmp_path / "cache"),
        preset="none",
        block_clips=3,
        teacher={
            name: TeacherConfig(family=ENERGY, settings={"gain": gain}, resources=gpu)
            for name, gain in (("first", 1.0), ("second", 2.0), ("third", 3.0))
        },
    )
    setups = setup.teachers(config)
    layout = Layout.create(config.cache)
    layout.register(corpus)
    for teacher in setups:
        layout.add_teacher(teacher.spec)
    specs = [teacher.spec for teacher in setups]
    folders = {spec.name: layout.shards(spec, corpus.name) for spec in specs}
    started: Counter[int] = Counter()
    decoded: Counter[str] = Counter()

    def record_calls(process: Process, method: str, arguments: tuple) -> None:
        if method == "start" and len(process.worker._setups):
            started[process.number] += 1
        if method == "decode":
            decoded.update(clip.clip_id for clip in arguments[0])

    backend = InProcess({"a": {"CPU": 3, "GPU": 1}}, record_calls)
    work = plan.work(corpus, plan.missing(layout, corpus, specs))
    Scheduler(backend, setups, work, folders, config, NoProgress()).run()
    assert list(started.values()) == [1], "the models of one GPU were loaded more than once"
    assert decoded == Counter(clip.clip_id for clip in corpus.clips())
    for spec in specs:
        assert len(shards.committed(folders[spec.name])) == corpus.num_shards
