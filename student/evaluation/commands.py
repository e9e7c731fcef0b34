"""What `eval`, `ablate` and `probe` do around their measurement: runs, questions, tables, plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from manifests.console import console
from manifests.errors import UserError
from student.config import ARMS, WITH_HEADS
from student.evaluation import evaluate as evaluation
from student.evaluation.analysis.ablate import ablate
from student.evaluation.analysis.ablate import build_table as ablation_table
from student.evaluation.analysis.head_quality import read_run
from student.evaluation.analysis.pictures import draw_ablation, draw_probes
from student.evaluation.analysis.probe import probe
from student.evaluation.benchmarks import load_benchmark
from student.evaluation.questions import Question, questions_of_run, read_questions

ORDER = ("base", *ARMS)


def eval_runs(
    runs: Sequence[str],
    questions: str | None,
    name: str,
    benchmark: str,
    data: str,
    limit: int,
    batch_size: int,
    blind: bool,
) -> None:
    """Asks runs a set of questions; prints them side by side, arms over their seeds."""
    asked = _questions(runs[0], questions, benchmark, data, limit)
    name = name or benchmark or (Path(questions).stem if questions else "held_out")
    name += "-blind" if blind else ""
    arms: dict[str, dict[int, list]] = {}
    for run in runs:
        report = evaluation.evaluate(run, asked, name, batch_size=batch_size, blind=blind)
        answers = evaluation.read_answers(run, asked, name)
        arms.setdefault(report["arm"], {})[report["seed"]] = answers
    # Arms are paired seed by seed, so only seeds that all of them have are compared.
    trained = [set(by_seed) for arm, by_seed in arms.items() if arm != "base"]
    shared = set.intersection(*trained) if trained else set()
    if trained and not shared:
        raise UserError("the arms have no seed in common, so there is nothing to compare")
    ordered = {
        arm: [by_seed[seed] for seed in sorted(by_seed if arm == "base" else shared)]
        for arm in ORDER
        if (by_seed := arms.get(arm))
    }
    against = [arm for arm in ARMS[:-1] if arm in ordered]
    console.print(evaluation.build_table(evaluation.compare(ordered, against=against)))


def ablate_runs(
    runs: Sequence[str], questions: str | None, first_layer: int, limit: int, batch_size: int
) -> None:
    """Tampers with runs' blocks and audio: tables, RUN/ablation.json, a plot in the first run."""
    asked = _questions(runs[0], questions, "", "", limit)
    reports = []
    for run in runs:
        reports.append(ablate(run, asked, first_layer=first_layer, batch_size=batch_size))
        console.print(ablation_table(reports[-1]))
    picture = Path(runs[0]) / "ablation.png"
    draw_ablation(picture, reports)
    console.print(f"plot: {picture}")


def probe_runs(
    runs: Sequence[str], questions: str | None, caches: Sequence[str], limit: int, batch_size: int
) -> None:
    """Probes runs on the same clips; RUN/probes.json, and one heat map in the first run."""
    asked = _questions(runs[0], questions, "", "", limit)
    reports = list(probe(runs, asked, caches=caches, batch_size=batch_size).values())
    picture = Path(runs[0]) / "probes.png"
    draw_probes(picture, reports)
    console.print(_probe_table(reports))
    console.print(f"heat map: {picture}")
    for run, report in zip(runs, reports, strict=True):
        if report["arm"] in WITH_HEADS and caches:
            console.print(_reading_table(run, read_run(run, caches)))


def _questions(run: str, path: str | None, benchmark: str, data: str, limit: int) -> list[Question]:
    if benchmark:
        if not data:
            raise UserError(f"--benchmark {benchmark} needs --data, the folder of your local copy")
        questions = load_benchmark(benchmark, Path(data))
    elif path:
        questions = read_questions(path)
    else:
        questions = questions_of_run(Path(run))
    if limit and limit < len(questions):
        # Evenly spread, so that every task keeps its share.
        questions = [questions[at * len(questions) // limit] for at in range(limit)]
    return questions


def _probe_table(reports: Sequence[dict]) -> Table:
    table = Table("target", "metric", "floor", title="linear probes: best layer of each group")
    for report in reports:
        table.add_column(f"{report['arm']}-{report['seed']}: audio, thinking, decision")
    for name, target in reports[0]["targets"].items():
        cells = [
            ", ".join(
                f"{max(scores):.2f} @{scores.index(max(scores))}" if scores else "-"
                for group in ("audio", "thinking", "decision")
                for scores in [report["targets"][name]["scores"].get(group, [])]
            )
            for report in reports
        ]
        table.add_row(name, target["metric"], f"{target['floor']:.2f}", *cells)
    return table


def _reading_table(run: str, report: dict) -> Table:
    table = Table("stream", "metric", title=f"{run}: what the heads read on held-out clips")
    for heading in ("mean predictor", "head", "besides"):
        table.add_column(heading, justify="right")
    for name, numbers in report["streams"].items():
        known = ("kind", "clips", "metric", "score", "mean_predictor")
        more = {key: value for key, value in numbers.items() if key not in known}
        besides = ", ".join(f"{key.replace('_', ' ')} {value:.2f}" for key, value in more.items())
        table.add_row(
            name,
            numbers["metric"],
            f"{numbers['mean_predictor']:.3f}",
            f"{numbers['score']:.3f}",
            besides,
        )
    return table
