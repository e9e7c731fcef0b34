"""All arms from one recipe, with several seeds: is it the block, its targets, or both that help?

Published relatives of this method gained little over plain controls once someone checked, so the
controls are one command. An arm is a row of switches (student.config.SWITCHES); arms of one seed
share data, order, steps, adapters and starting weights.
"""

from __future__ import annotations

import statistics

from rich.table import Table

from manifests.console import console
from student.config import ArmsOptions
from student.runs.folder import Numbers
from student.train import train


def run_arms(options: ArmsOptions) -> Table:
    """Trains every arm with every seed, or goes on where that was interrupted."""
    ends: dict[str, list[Numbers]] = {arm: [] for arm in options.arms}
    for seed in options.seeds:
        for arm in options.arms:
            console.rule(f"{arm}, seed {seed}")
            report = train(options.arm_options(arm, seed))
            ends[arm].append(report[list(report)[-1]])
    return build_arms_table(ends)


def build_arms_table(ends: dict[str, list[Numbers]]) -> Table:
    """Held-out answer loss by arm: mean and standard deviation over seeds."""
    table = Table("arm", title="held-out answer loss")
    for heading in ("seeds", "mean", "deviation"):
        table.add_column(heading, justify="right")
    for arm, numbers in ends.items():
        losses = [number["answer_loss"] for number in numbers]
        spread = f"{statistics.stdev(losses):.4f}" if len(losses) > 1 else "-"
        table.add_row(arm, str(len(losses)), f"{statistics.mean(losses):.4f}", spread)
    return table
