"""Estimates the time of probes at full size from a smaller measurement.

    python -m benchmarks.probes

Ridge regressions of one layer and position group are timed on random states, with a width and
number of clips that one core processes in seconds. Their work (multiply-adds, counted below) grows
with rows times width squared and with width cubed, so the measured rate gives the time at full
size. The time of one core is measured, so that other programs on the machine have little effect;
cores are assumed to share the work evenly, which is nearly true for blocked products and
factorisations. The table also lists the previous method: products and a factorisation for each
target and penalty.
"""

from __future__ import annotations

import os
import time

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks import hardware
from student.evaluation.analysis.linear_probes import PENALTIES, fit_ridges

CLIPS, POSITIONS, WIDTH, LAYERS, GROUPS, STREAMS, COLUMNS = 1000, 32, 4096, 33, 2, 6, 64
"""A 7B model: 32 layers and the embeddings; audio and thinking positions; six streams. The decision
position has one row per clip, whose time is negligible."""
CORES = 16
LEARNING, CHOOSING = 0.7, 0.75
"""Share of clips on which probes are fitted, and of those, share on which each penalty is
fitted."""
MEASURED_CLIPS, MEASURED_WIDTH = 250, 1024


def work(clips: int, width: int, *, shared: bool) -> float:
    """Counts the multiply-adds of one layer and group."""
    rows = clips * LEARNING * POSITIONS
    columns = STREAMS * COLUMNS
    gram, solve = rows * width**2, width**3 / 3
    products = 2 * rows * width * columns
    if shared:
        factorised = (len(PENALTIES) + STREAMS) * (solve + width**2 * columns)
        checked = len(PENALTIES) * rows * (1 - CHOOSING) * width * columns
        return gram + factorised + products + checked
    fits = STREAMS * len(PENALTIES)
    return (fits * CHOOSING + STREAMS) * gram + (fits + STREAMS) * solve


def measure(*, shared: bool) -> float:
    """Measures the seconds on one core for one layer and group at the measured size."""
    rng = np.random.default_rng(0)
    clips = int(MEASURED_CLIPS * LEARNING)
    states_NH = rng.standard_normal((clips * POSITIONS, MEASURED_WIDTH)).astype(np.float16)
    targets = [rng.standard_normal((len(states_NH), COLUMNS)) for _ in range(STREAMS)]
    groups_N = np.repeat(np.arange(clips), POSITIONS)
    with threadpool_limits(1):
        start = time.process_time()
        if shared:
            fit_ridges(states_NH, targets, groups_N)
        else:
            checking_N = groups_N % 4 == 3
            for target_ND in targets:
                for _ in PENALTIES:
                    _one_fit(states_NH[~checking_N], target_ND[~checking_N])
                _one_fit(states_NH, target_ND)
        return time.process_time() - start


def _one_fit(states_NH: np.ndarray, target_ND: np.ndarray) -> None:
    rows = states_NH.astype(np.float64)
    standard = (rows - rows.mean(0)) / rows.std(0)
    gram = standard.T @ standard + np.eye(standard.shape[1])
    np.linalg.solve(gram, standard.T @ (target_ND - target_ND.mean(0)))


def main() -> None:
    """Prints the table."""
    table = Table(title=f"probes: {LAYERS} layers x {GROUPS} groups, {STREAMS} streams")
    table.add_column("products")
    measured = f"measured: {MEASURED_CLIPS} clips, width {MEASURED_WIDTH}, one core, a layer"
    full = f"computed: {CLIPS:,} clips, width {WIDTH:,}, {CORES} cores, all layers"
    for heading in (measured, "billion multiply-adds a second", full):
        table.add_column(heading, justify="right")
    for name, shared in (("for each target and penalty", False), ("shared", True)):
        seconds = measure(shared=shared)
        rate = work(MEASURED_CLIPS, MEASURED_WIDTH, shared=shared) / seconds
        total = LAYERS * GROUPS * work(CLIPS, WIDTH, shared=shared) / (rate * CORES)
        table.add_row(name, f"{seconds:.2f} s", f"{rate / 1e9:.1f}", f"{total / 60:.1f} min")
    console = Console(width=150)
    console.print(f"{hardware.describe()}; load {os.getloadavg()[0]:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
