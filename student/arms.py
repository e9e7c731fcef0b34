"""Trains all arms of a study from one recipe with several seeds, to separate the effects of block
and targets.

Related published methods gained little over plain controls, so the controls are one command. An arm
is a set of switches (student.arm_switches). Arms of one seed share data, the order and steps of the
joint stage, adapters and initial weights. They differ in `align`, which sft lacks and in which
pause is trained on answers: the table shows the steps of each.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.table import Table

from manifests.console import console
from student.run_options import ArmsOptions
from student.runs.folder import Numbers, Run
from student.train import train


def run_arms(options: ArmsOptions) -> Table:
    """Trains every arm with every seed, or resumes where this was interrupted."""
    ends: dict[str, list[Numbers]] = {arm: [] for arm in options.arms}
    steps: dict[str, dict[str, int]] = {}
    held_out: dict[str, str] = {}
    for seed in options.seeds:
        for arm in options.arms:
            console.rule(f"{arm}, seed {seed}")
            own = options.arm_options(arm, seed)
            report = train(own)
            ends[arm].append(report[list(report)[-1]])
            run = Run(own.out)
            steps[arm] = count_steps(run)
            held_out[own.out] = run.held_out_digest()
    table = build_arms_table(ends, steps)
    table.caption = describe_other_examples(held_out)
    return table


def describe_other_examples(held_out: Mapping[str, str]) -> str | None:
    """Names the runs that were validated on other examples than the last one; None if there are
    none.

    Args:
        held_out: Run -> the digest of its held-out examples.
    """
    *_, last = held_out
    others = [run for run, digest in held_out.items() if digest != held_out[last]]
    if not others:
        return None
    return (
        f"Not comparable: {', '.join(others)} had other held-out examples than {last}: the corpus "
        "or the cache has changed between them. Train all arms again, with another --out."
    )


def count_steps(run: Run) -> dict[str, int]:
    """Counts the optimizer steps that a run has taken, by stage."""
    steps: dict[str, int] = {}
    for line in run.log():
        steps[line["stage"]] = max(steps.get(line["stage"], 0), line["step"])
    return steps


def build_arms_table(
    ends: Mapping[str, Sequence[Numbers]], steps: Mapping[str, Mapping[str, int]]
) -> Table:
    """Tabulates the mean and standard deviation over seeds of each arm's held-out answer loss.

    The steps of each stage are listed, too, because those of `align` differ between arms.
    """
    table = Table("arm", title="held-out answer loss")
    for heading in ("seeds", "mean", "deviation", "align steps", "joint steps"):
        table.add_column(heading, justify="right")
    for arm, numbers in ends.items():
        losses = [number["answer_loss"] for number in numbers]
        spread = f"{statistics.stdev(losses):.4f}" if len(losses) > 1 else "-"
        taken = [str(steps[arm].get(stage, 0)) for stage in ("align", "joint")]
        table.add_row(arm, str(len(losses)), f"{statistics.mean(losses):.4f}", spread, *taken)
    return table
