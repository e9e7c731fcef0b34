"""Compares students: arms over their seeds with intervals, and their paired differences.

All compared students answered the same questions. A column is an arm, or a single run if several
runs have the same arm and seed.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from student.arm_switches import ARMS
from student.config import Recipe
from student.evaluation.scoring.intervals import RESAMPLES, mcnemar
from student.evaluation.scoring.scores import Answer, paired_interval, score_answers, task_tables
from student.recipe_files import differences
from student.runs.folder import Run

ORDER = ("base", *ARMS)
CHECKPOINT = "checkpoint"
"""Title of the column of a plain checkpoint that is not the base of a run, such as an export."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Runs of one arm with several seeds, or a single run."""

    name: str
    arm: str
    runs: Mapping[int, str]
    """Seed -> folder."""


def group_runs(paths: Sequence[str]) -> list[Column]:
    """Groups runs into columns of a table, in the order of arms.

    Runs are seeds of one arm only if their recipes differ in nothing but the seed. If an arm has
    several recipes or a seed twice, its columns are named by folder. A plain checkpoint that is not
    `RUN/base`, such as an export, is always named by its folder.
    """
    groups: list[tuple[str, Recipe | None, dict[int, str]]] = []
    for path in dict.fromkeys(paths):
        run = Run(path)
        arm, recipe = (run.recipe.arm, run.recipe) if run.exists else ("base", None)
        seed = recipe.seed if recipe else 0
        for known, other, by_seed in groups:
            if known == arm and seed not in by_seed and _are_comparable(recipe, other):
                by_seed[seed] = path
                break
        else:
            groups.append((arm, recipe, {seed: path}))
    groups.sort(key=lambda group: ORDER.index(group[0]))
    first = [next(iter(by_seed.values())) for _, _, by_seed in groups]
    titles = [_title(arm, path) for (arm, _, _), path in zip(groups, first, strict=True)]
    unclear = {title for title in titles if titles.count(title) > 1} | {CHECKPOINT}
    short = _short_names(
        [path for title, path in zip(titles, first, strict=True) if title in unclear]
    )
    return [
        Column(
            name=f"{title} ({short[path]})" if title in unclear else title,
            arm=arm,
            runs=dict(sorted(by_seed.items())),
        )
        for (arm, _, by_seed), title, path in zip(groups, titles, first, strict=True)
    ]


def _title(arm: str, path: str) -> str:
    """The arm of a run; `base` for RUN/base, and `checkpoint` for any other plain checkpoint."""
    folder = Path(path)
    if arm != "base" or (folder.name == "base" and Run(folder.parent).exists):
        return arm
    return CHECKPOINT


def shared_seeds(columns: Sequence[Column]) -> list[int]:
    """Seeds that all trained columns have, because differences are paired by seed."""
    trained = [set(column.runs) for column in columns if column.arm != "base"]
    return sorted(set.intersection(*trained)) if trained else []


def without_partner(columns: Sequence[Column], shared: Collection[int]) -> list[str]:
    """Folders of trained runs whose seed is not among those that all columns share."""
    return [
        run
        for column in columns
        for seed, run in column.runs.items()
        if column.arm != "base" and seed not in shared
    ]


def common_answers(arms: Mapping[str, Sequence[Sequence[Answer]]]) -> dict[str, list[list[Answer]]]:
    """The answers to the questions that every student could be asked."""
    sets = [{answer.question.id for answer in run} for runs in arms.values() for run in runs]
    common = set.intersection(*sets)
    return {
        arm: [[answer for answer in run if answer.question.id in common] for run in runs]
        for arm, runs in arms.items()
    }


def _are_comparable(recipe: Recipe | None, other: Recipe | None) -> bool:
    """Whether two runs differ only in the seed."""
    if recipe is None or other is None:
        return False
    return not differences(replace(recipe, seed=0), replace(other, seed=0))


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """Shortens folders by their common part; `RUN/base` keeps its run."""
    full = {path: Path(path).absolute() for path in paths}
    if len(full) < 2:
        return {path: Path(path).name for path in paths}
    shared = os.path.commonpath(list(full.values()))
    return {path: os.path.relpath(folder, shared) for path, folder in full.items()}


def compare(
    arms: Mapping[str, Sequence[Sequence[Answer]]],
    *,
    against: Sequence[str],
    resamples: int = RESAMPLES,
) -> dict:
    """Compares arms over all of their seeds, with paired differences.

    Args:
        arms: Arm -> per seed the answers, to the same questions in the same order.
        against: Arms with which all later arms are compared.
        resamples: Resamples of the bootstrap.

    Returns:
        `arms`: arm -> scores with intervals over questions and seeds; `differences`: "A - B" ->
        tasks and mean, each score, low, high, and per seed the p of McNemar's test.
    """
    tables = {arm: task_tables(runs) for arm, runs in arms.items()}
    names = list(arms)
    differences = {}
    for theirs in against:
        for ours in names[names.index(theirs) + 1 :]:
            count = min(len(arms[ours]), len(arms[theirs]))
            first, second = _seeds(tables[ours], count), _seeds(tables[theirs], count)
            differences[f"{ours} - {theirs}"] = {
                "mean": _as_dict(first, second, resamples),
                "tasks": {
                    task: _as_dict({task: first[task]}, {task: second[task]}, resamples)
                    for task in tables[ours]
                },
                "mcnemar_p": [
                    mcnemar(_right(arms[ours][seed]), _right(arms[theirs][seed]))
                    for seed in range(count)
                ],
            }
    scores = {arm: score_answers(runs, resamples=resamples) for arm, runs in arms.items()}
    for arm, runs in arms.items():
        means = [
            statistics.mean(task["by_seed"][seed] for task in scores[arm]["tasks"].values())
            for seed in range(len(runs))
        ]
        scores[arm]["mean"]["by_seed"] = means
    return {"arms": scores, "differences": differences}


def _seeds(tables: dict, count: int) -> dict:
    return {task: (errors_SQ[:count], words_Q) for task, (errors_SQ, words_Q) in tables.items()}


def _as_dict(ours: dict, theirs: dict, resamples: int) -> dict:
    interval = paired_interval(ours, theirs, resamples=resamples)
    return {"score": interval.value, "low": interval.low, "high": interval.high}


def _right(answers: Sequence[Answer]) -> np.ndarray:
    return np.array([answer.right for answer in answers])


def build_table(comparison: dict) -> Table:
    """Renders tasks by arms with intervals, parse failures and truncated replies, and differences
    below."""
    arms = comparison["arms"]
    some_cut = any(task.get("cut") for scores in arms.values() for task in scores["tasks"].values())
    more_columns = " | parse failures" + " | truncated at the token limit" * some_cut
    table = Table("task", title=f"score (95 % interval){more_columns}")
    for heading in ("n", "chance", "majority", *arms):
        table.add_column(heading, justify="right")
    tasks = next(iter(arms.values()))["tasks"]
    for task, first in tasks.items():
        cells = []
        for scores in arms.values():
            numbers = scores["tasks"][task]
            parts = [_shown(numbers), f"{numbers['parse_failures']:.0%}"]
            parts += [f"{numbers.get('cut', 0):.0%}"] * some_cut
            cells.append(" | ".join(parts))
        chance = f"{first['chance']:.2f}" if first["chance"] else "-"
        majority = f"{first['majority']:.2f}" if first["kind"] != "transcription" else "-"
        table.add_row(task, f"{first['n']:,}", chance, majority, *cells)
    table.add_section()
    means = [_shown(scores["mean"]) for scores in arms.values()]
    table.add_row("mean over tasks", "", *_mean_baselines(tasks.values()), *means)
    for name, difference in comparison["differences"].items():
        blanks = [""] * (len(arms) + 2)
        table.add_row(name, *blanks, _shown(difference["mean"], "+.3f"))
    return table


def _mean_baselines(tasks: Collection[Mapping]) -> tuple[str, str]:
    """The means over tasks of chance and majority; empty if a task has none."""
    chances = [task["chance"] for task in tasks]
    majorities = [task["majority"] for task in tasks if task["kind"] != "transcription"]
    return (
        f"{statistics.mean(chances):.2f}" if all(chances) else "",
        f"{statistics.mean(majorities):.2f}" if len(majorities) == len(tasks) else "",
    )


def _shown(numbers: Mapping[str, float | None], form: str = ".2f") -> str:
    score, low, high = numbers["score"], numbers["low"], numbers["high"]
    if low is None or high is None:
        return f"{score:{form}}"
    return f"{score:{form}} ({low:{form}} .. {high:{form}})"
