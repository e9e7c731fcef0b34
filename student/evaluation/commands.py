"""The commands `eval`, `ablate` and `probe`: runs, questions, tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from manifests.console import console, messages
from student.arm_switches import WITH_HEADS
from student.evaluation import comparison
from student.evaluation.analysis.ablate import ablate
from student.evaluation.analysis.ablate import build_table as ablation_table
from student.evaluation.analysis.head_quality import read_run
from student.evaluation.analysis.pictures import draw_ablation, draw_probes
from student.evaluation.analysis.probe import build_table as probe_table
from student.evaluation.analysis.probe import describe_clips, probe
from student.evaluation.answering import TokenLimits
from student.evaluation.evaluate import evaluate
from student.evaluation.questions import Question
from student.evaluation.results import check_name, read_answers


def eval_runs(
    runs: Sequence[str],
    selected: Sequence[Question],
    name: str,
    *,
    batch_size: int,
    blind: bool,
    limits: TokenLimits | None = None,
) -> None:
    """Evaluates runs on a set of questions, and prints a table of arms over their seeds."""
    columns = comparison.group_runs(runs)
    paths = [run for column in columns for run in column.runs.values()]
    for run in paths:
        check_name(run, name, selected)
    for run in paths:
        evaluate(run, selected, name, batch_size=batch_size, blind=blind, limits=limits)
    shared = comparison.shared_seeds(columns)
    arms = {}
    for column in columns:
        seeds = shared if shared and column.arm != "base" else list(column.runs)
        arms[column.name] = [read_answers(column.runs[seed], selected, name) for seed in seeds]
    trained = [column.name for column in columns if column.arm != "base"]
    against = trained[:-1] if shared else []
    if len(trained) > 1 and not shared:
        messages.print("the runs have no seed in common, so no differences are shown")
    if shared and (left := comparison.without_partner(columns, shared)):
        messages.print(
            f"left out, because other arms lack the seed and runs are paired by seed: "
            f"{', '.join(left)}", markup=False,
        )  # fmt: skip
    table = comparison.build_table(
        comparison.compare(comparison.common_answers(arms), against=against)
    )
    console.print(table)


def ablate_runs(
    runs: Sequence[str],
    selected: Sequence[Question],
    *,
    first_layer: int,
    batch_size: int,
    limits: TokenLimits | None = None,
) -> None:
    """Runs the ablations: prints tables, writes RUN/ablation.json and a plot in the first run."""
    reports = []
    for run in dict.fromkeys(runs):
        reports.append(
            ablate(run, selected, first_layer=first_layer, batch_size=batch_size, limits=limits)
        )
        console.print(ablation_table(reports[-1]))
    picture = Path(runs[0]) / "ablation.png"
    draw_ablation(picture, reports)
    console.print(f"plot: {picture}")


def probe_runs(
    runs: Sequence[str], selected: Sequence[Question], *, caches: Sequence[str], batch_size: int
) -> None:
    """Probes runs on the same clips: writes RUN/probes.json, and one heat map in the first run."""
    reports = probe(list(dict.fromkeys(runs)), selected, caches=caches, batch_size=batch_size)
    picture = Path(runs[0]) / "probes.png"
    clips = " / ".join(dict.fromkeys(map(describe_clips, reports.values())))
    draw_probes(picture, list(reports.values()), clips=clips)
    console.print(probe_table(reports))
    console.print(f"heat map: {picture}")
    for run, report in reports.items():
        if report["arm"] in WITH_HEADS and caches:
            console.print(_reading_table(run, read_run(run, caches)))


def _reading_table(run: str, report: dict) -> Table:
    table = Table(
        "stream", "metric", title=f"{run}: metrics of the heads on held-out clips, each once"
    )
    for heading in ("mean predictor", "head", "besides"):
        table.add_column(heading, justify="right")
    for name, numbers in report["streams"].items():
        known = ("kind", "clips", "metric", "score", "mean_predictor")
        more = {key: value for key, value in numbers.items() if key not in known}
        besides = ", ".join(
            f"{key.replace('_', ' ')} {_number(value, '.2f')}" for key, value in more.items()
        )
        table.add_row(
            name,
            numbers["metric"],
            _number(numbers["mean_predictor"]),
            _number(numbers["score"]),
            besides,
        )
    for teacher, scores in report.get("notes", {}).items():
        shown = [f"{key.replace('_', ' ')} {_number(value)}" for key, value in scores.items()]
        table.add_row(f"{teacher}: notes", "mir_eval", "", "", ", ".join(shown))
    return table


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)
