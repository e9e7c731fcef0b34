"""Tests for shared validation and calibration, and for unreadable held-out clips."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from student.config import DataConfig, StageConfig
from student.runs.folder import Run
from student.train import train
from student.training.sharing import SharedBatches, rows_of_all_processes, sum_over_processes
from tests.student.conftest import ToyData


@pytest.mark.parametrize("count", [1, 5, 8, 17])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_share_examples_in_equally_many_batches(count: int, processes: int) -> None:
    rounds, counted = set(), []
    for rank in range(processes):
        process: Any = SimpleNamespace(process_index=rank, num_processes=processes)
        shared = SharedBatches(
            list(range(count)), 2, data=DataConfig(), collate=list,  # pyright: ignore
            process=process,
        )  # fmt: skip
        batches: list[Any] = list(shared)
        assert len(batches) == len(shared)
        rounds.add(len(batches))
        counted += [example for batch, counts in batches if counts for example in batch]
    assert len(rounds) == 1  # a sharded model needs all processes in each pass
    assert sorted(counted) == list(range(count))


def test_single_process_keeps_its_sums_and_rows() -> None:
    values = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    for result, value in zip(sum_over_processes(values), values, strict=True):
        torch.testing.assert_close(result, value.double())
    rows_MD = torch.rand(3, 2)
    assert rows_of_all_processes(rows_MD).equal(rows_MD)


def test_missing_held_out_clip_is_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing clip must not end the training at its first validation."""
    toy_data = ToyData(tmp_path, 48)
    options = toy_data.options(tmp_path / "run", align=None)
    stage = StageConfig(train="lora", batch_size=4, max_steps=1, save_steps=9)
    options = dataclasses.replace(options, joint=stage)
    whole = train(options)
    example, clips = next(iter(Run(tmp_path / "run").held_out()))
    Path(clips[0].uri).unlink()
    with caplog.at_level(logging.WARNING):
        report = train(dataclasses.replace(options, out=str(tmp_path / "again")))
    assert example.clip_ids[0] in caplog.text
    assert "held-out examples were skipped" in capsys.readouterr().out
    assert report["joint"]["answer_loss"] == pytest.approx(whole["joint"]["answer_loss"], rel=0.2)
