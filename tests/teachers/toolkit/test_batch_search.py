"""Tests for the search of the best batch size, which is cached for each version and device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.build.worker import Worker
from teachers.protocol import Targets
from teachers.toolkit import batch_search
from teachers.toolkit.batching import BatchBudget
from tests.pipeline.fakes import Energy, EnergySettings

CLOCK = [0.0]
"""A fake clock in seconds, which `FakeGpu` advances."""


class FakeGpu(Energy):
    """A teacher that takes the same time for any batch, and runs out of memory beyond 130 s."""

    def __init__(self, setup_s: float = 0.05) -> None:
        super().__init__("energy", EnergySettings())
        self.budget = BatchBudget(60.0)
        self.setup_s = setup_s
        self.calls = 0

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        def forward(batch: list[int]) -> list[Targets]:
            self.calls += 1
            if sum(len(waves[index]) for index in batch) > 130 * 16_000:
                raise torch.OutOfMemoryError("CUDA out of memory")
            CLOCK[0] += self.setup_s
            return [Targets({"bands": np.zeros((1, 16), np.float32)}) for _ in batch]

        return self.budget.run([len(wave) for wave in waves], forward, per_second=16_000)


@pytest.fixture(autouse=True)
def isolated_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(batch_search.time, "perf_counter", lambda: CLOCK[0])


def test_best_batch_is_searched_once(tmp_path: Path):
    first, second = FakeGpu(), FakeGpu()
    for teacher in (first, second):
        batch_search.tune(teacher, teacher.spec(), device="cpu", most_seconds=600.0)
        assert teacher.budget.seconds == 120.0
    assert first.calls > 0
    assert second.calls == 0, "it was searched for again"
    assert (tmp_path / "coat-distill" / batch_search.FILE).exists()


def test_batch_is_not_larger_than_a_block():
    teacher = FakeGpu()
    batch_search.tune(teacher, teacher.spec(), device="cpu", most_seconds=60.0)
    assert teacher.budget.seconds <= 60.0


def test_larger_blocks_trigger_a_new_search():
    """The result for small blocks must not be used for larger blocks."""
    for most_seconds, expected in ((60.0, 60.0), (600.0, 120.0), (60.0, 60.0)):
        teacher = FakeGpu()
        batch_search.tune(teacher, teacher.spec(), device="cpu", most_seconds=most_seconds)
        assert teacher.budget.seconds == expected


def test_larger_batch_without_a_gain_is_not_chosen(monkeypatch: pytest.MonkeyPatch):
    teacher = FakeGpu()
    durations = iter([1.0, 1.0, 2.0, 4.0, 8.0])
    monkeypatch.setattr(batch_search, "_trial", lambda *arguments: next(durations))
    assert batch_search.search(teacher, teacher.spec(), teacher.budget, 600.0) == 30.0


def test_unwritable_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    teacher = FakeGpu()
    batch_search.tune(teacher, teacher.spec(), device="cpu", most_seconds=600.0)
    assert teacher.budget.seconds == 120.0


def test_worker_searches_only_on_request(monkeypatch: pytest.MonkeyPatch):
    from pipeline.build.setup import TeacherSetup
    from pipeline.config import Resources

    teacher = FakeGpu()
    setup = TeacherSetup("energy", "none", {}, teacher.spec(), Resources())
    monkeypatch.setattr(TeacherSetup, "make", lambda self: teacher)
    Worker([setup], device="cpu", num_threads=1).start()
    assert teacher.calls == 0
    Worker([setup], device="cpu", num_threads=1).start(search_up_to=600.0)
    assert teacher.budget.seconds == 120.0
