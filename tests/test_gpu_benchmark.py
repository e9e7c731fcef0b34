"""Tests `python -m benchmarks.gpu` with toy sizes on a machine without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.record import Record

ROOT = Path(__file__).parents[1]


def run_benchmark(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="toy sizes are for machines without a GPU")
@pytest.mark.parametrize("section", ["right", "teachers", "job", "student", "evidence"])
def test_each_section_writes_its_table(section: str, tmp_path: Path) -> None:
    done = run_benchmark(tmp_path, "--sections", section)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    (table,) = tmp_path.rglob(f"{section}.txt")
    assert "no GPU, toy sizes" in table.read_text()
    rows = [json.loads(line) for line in table.with_suffix(".jsonl").read_text().splitlines()]
    assert rows
    assert not [row for row in rows if "failed" in row or row.get("right") is False]


def test_unknown_section_prints_one_line(tmp_path: Path) -> None:
    done = run_benchmark(tmp_path, "--sections", "wrong")
    assert done.returncode == 2
    assert "there is no section 'wrong'; there are right, teachers" in done.stderr


def test_section_resumes_after_the_rows_that_are_stored(tmp_path: Path) -> None:
    def fail() -> dict[str, int]:
        raise RuntimeError("CUDA out of memory\nmore")

    ran: list[int] = []

    def work(number: int) -> dict[str, int]:
        ran.append(number)
        return {"value": number}

    late = Record(tmp_path, "x", budget_s=-1)
    late.measure({"n": 0}, lambda: work(0))
    late.finish("cut")
    assert late.cut
    assert not late.table.exists()
    record = Record(tmp_path, "x")
    record.measure({"n": 1}, lambda: work(1))
    record.measure({"n": 2}, fail)
    again = Record(tmp_path, "x")
    again.measure({"n": 1}, lambda: work(1))
    again.measure({"n": 3}, lambda: work(3))
    again.finish("whole")
    assert ran == [1, 3]
    assert [row.get("value") for row in again.rows()] == [1, None, 3]
    assert "CUDA out of memory" in again.table.read_text()
