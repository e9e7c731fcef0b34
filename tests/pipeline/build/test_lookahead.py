"""Tests that decoding runs as far ahead as the measured speeds require, and no further."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from manifests.clips import Clip
from manifests.storage import Folder
from pipeline.build import lookahead, pools, scheduler, setup
from pipeline.build.plan import ShardWork
from pipeline.build.pools import Pool, WorkerHandle
from pipeline.build.scheduler import Scheduler
from pipeline.config import BuildConfig, Resources, TeacherConfig
from tests.pipeline.conftest import ENERGY
from tests.pipeline.in_process import NoProgress
from tests.pipeline.simulated_pool import SimulatedPool

SHARDS, CLIPS, SECONDS = 40, 64, 30.0


def make_pools(gpus: int, cpus: int) -> tuple[list[Pool], Pool]:
    """Returns a pool of GPU workers and a pool of decoders, all of them ready."""
    on_gpu = SimpleNamespace(name="asr", resources=Resources(num_gpus=1))
    ordered, decoders = pools.arrange([on_gpu], Resources())  # type: ignore[list-item]
    for pool, count in zip(ordered, (gpus, cpus), strict=True):
        for _ in range(count):
            member = WorkerHandle(None, pool, 0.0)
            pool.members.append(member)
            pool.mark_ready(member)
    return ordered, decoders


def test_slow_decoding_runs_further_ahead():
    ordered, decoders = make_pools(gpus=1, cpus=16)
    fast = lookahead.blocks_ahead(ordered, decoders, {"asr": 0.01, "decode": 0.001})
    slow = lookahead.blocks_ahead(ordered, decoders, {"asr": 0.01, "decode": 0.1})
    # Three blocks are queued at the GPU, and each of 16 workers decodes one.
    assert fast == 3 + 16
    # Ten blocks are processed while one is decoded.
    assert slow == 3 + 20


def test_unknown_speeds_and_missing_workers_allow_two_blocks_per_decoder():
    ordered, decoders = make_pools(gpus=1, cpus=4)
    assert lookahead.blocks_ahead(ordered, decoders, {"asr": 0.01}) == 3 + 8
    assert lookahead.blocks_ahead(ordered, decoders, {"decode": 0.01}) == 3 + 8
    idle, idle_decoders = make_pools(gpus=0, cpus=4)
    assert lookahead.blocks_ahead(idle, idle_decoders, {"asr": 0.01, "decode": 0.01}) == 8


def test_very_slow_decoding_is_bounded():
    ordered, decoders = make_pools(gpus=1, cpus=4)
    assert lookahead.blocks_ahead(ordered, decoders, {"asr": 0.001, "decode": 0.1}) == 3 + 8
    ordered, decoders = make_pools(gpus=8, cpus=1)
    assert lookahead.blocks_ahead(ordered, decoders, {"asr": 0.001, "decode": 1.0}) == 24 + 2


def test_slow_commits_are_bridged_by_decoded_blocks():
    ordered, decoders = make_pools(gpus=1, cpus=1)
    costs = {"asr": 0.01, "decode": 0.001}
    blocks = [
        lookahead.blocks_ahead(
            ordered, decoders, costs, commit_seconds=seconds, block_seconds=120.0
        )
        for seconds in (0.0, 1.0, 3.0, 1000.0)
    ]
    # A block takes the GPU 1.2 s: 2 blocks while the only decoder commits for 3 s.
    assert blocks == [3 + 1, 3 + 1, 3 + 1 + 2, lookahead.MOST_PER_WORKER]
    ordered, decoders = make_pools(gpus=1, cpus=4)
    assert (
        lookahead.blocks_ahead(ordered, decoders, costs, commit_seconds=3.0, block_seconds=120.0)
        == 3 + 4
    )


def simulate(
    pool: SimulatedPool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    resources: Resources | None = None,
) -> SimulatedPool:
    """Runs a build with the real scheduler on simulated time."""
    clock = SimpleNamespace(monotonic=lambda: pool.now)
    monkeypatch.setattr(scheduler, "time", clock)
    config = BuildConfig(
        corpus="corpus",
        cache="cache",
        preset="none",
        block_clips=4,
        hang_seconds=86400,
        teacher={
            "asr": TeacherConfig(
                family=ENERGY, resources=resources or Resources(num_cpus=1, num_gpus=1)
            )
        },
    )

    def work() -> Iterator[ShardWork]:
        for number in range(SHARDS):
            clips: Sequence[Clip] = [
                Clip(clip_id=f"{number}-{place}", uri=f"/{number}-{place}.wav", duration=SECONDS)
                for place in range(CLIPS)
            ]
            yield ShardWork(number, [clip.clip_id for clip in clips], clips, ["asr"])

    folders = {"asr": Folder(str(tmp_path))}
    Scheduler(pool, setup.teachers(config), work(), folders, config, NoProgress()).run()
    assert pool.busy["extract"] == pytest.approx(
        pool.teacher_cost * SHARDS * CLIPS * SECONDS, rel=0.2
    )
    return pool


@pytest.mark.parametrize("ratio", [0.1, 1.0, 6.0])
def test_gpu_stays_busy_with_little_decoded_audio_waiting(
    ratio: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """One GPU and eight cores, with call durations that vary by half; decoding takes `ratio` times
    as long as the teacher."""
    rng = random.Random(0)
    factors = [rng.uniform(0.5, 1.5) for _ in range(100_000)]
    pool = simulate(
        SimulatedPool(
            {"CPU": 9, "GPU": 1}, 0.01 * ratio, 0.01, variation=lambda number: factors[number]
        ),
        monkeypatch,
        tmp_path,
    )
    assert pool.busy_share > 0.95
    # Without measured speeds, 64 blocks would be decoded ahead.
    most = 3 + max(2 * 8, 2 * ratio)
    assert pool.most_decoded_s <= most * 4 * SECONDS


def test_gpu_stays_busy_while_the_only_decoder_commits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A commit takes as long as the GPU needs for five blocks."""
    pool = simulate(
        SimulatedPool({"CPU": 2, "GPU": 1}, 0.002, 0.01, commit_s=6.0), monkeypatch, tmp_path
    )
    assert pool.busy_share > 0.98
    assert pool.most_decoded_s <= lookahead.MOST_PER_WORKER * 4 * SECONDS


@pytest.mark.parametrize("ratio", [0.02, 1.0])
def test_cores_that_decode_and_run_the_teacher_stay_busy(
    ratio: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Two cores share all work, as on a laptop."""
    pool = simulate(
        SimulatedPool({"CPU": 2}, 0.3 * ratio, 0.3), monkeypatch, tmp_path, resources=Resources()
    )
    assert pool.busy.total() / (2 * pool.now) > 0.97
    # Three blocks are queued at each worker, and two per worker are decoded.
    assert pool.most_decoded_s <= (2 * 3 + 2 * 2) * 4 * SECONDS
