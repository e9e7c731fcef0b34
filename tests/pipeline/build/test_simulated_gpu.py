"""Tests for the teacher on a simulated GPU of `benchmarks.stage1_gpu_side`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.simulated_gpu import Simulated, SimulatedSettings, flops_per_window, read_log
from pipeline.build.extraction import SharedClock, TeacherRunner
from pipeline.build.messages import Decoded


def test_simulated_teacher_sleeps_for_each_window_and_logs_it(tmp_path: Path):
    teacher = Simulated("asr", SimulatedSettings(seconds_per_window=0.01, log=str(tmp_path)))
    teacher.load(device="cuda", num_threads=1)
    waves = [np.zeros(16_000 * seconds, np.float32) for seconds in (30, 3, 40)]
    decoded = Decoded(["a", "b", "c"], [30.0, 3.0, 40.0], [""] * 3, {16_000: waves})
    extracted, summary = TeacherRunner(teacher, teacher.spec(), SharedClock()).extract(decoded)
    assert not summary.failures
    assert [row.frames["encoder"].num_frames for row in extracted.rows] == [750, 75, 1000]
    log = read_log(tmp_path)
    assert log.windows == 4
    assert 0.04 <= log.busy <= log.span + 1e-3


def test_simulated_h100_needs_4_to_5_ms_for_a_window():
    assert 2.0e12 < flops_per_window() < 2.5e12
    assert 0.004 < SimulatedSettings().seconds_per_window < 0.005
