"""Writes the miniature's results: a text file of tables, small JSON files, and plots.

Everything is made from the JSON files that `coat-student eval`, `ablate` and `probe` wrote to the
runs, so it can be made again without running anything.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import hardware
from benchmarks.miniature.verdicts import describe_benefit, describe_use
from student.arm_switches import ARMS, PLAIN_ARMS, WITH_BLOCK, WITH_HEADS, Arm
from student.evaluation.analysis.pictures import draw_ablation, draw_probes
from student.evaluation.comparison import build_table, compare
from student.evaluation.question_files import read_questions
from student.evaluation.results import read_answers

RESULTS_FILE = "results.txt"
SETS = {
    "test": "held-out clips",
    "sources": "held-out sources: another soundfont, other kits",
}


def write(
    base: Path, runs_folder: Path, data: Path, seeds: Sequence[int], folder: Path, command: str
) -> str:
    """Writes results.txt, JSON and pictures of a finished study into a folder.

    Args:
        base: The initial checkpoint of all arms.
        runs_folder: Folder of the arms' runs.
        data: Folder of the questions.
        seeds: Seeds that were trained.
        folder: Folder for results.
        command: The command that was run, for the first line.

    Returns:
        The text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=170, record=True, file=(folder / RESULTS_FILE).open("w"))
    console.print(f"{command}; {hardware.describe()}; seeds {list(seeds)}")
    runs = {arm: [runs_folder / f"{arm}-{seed}" for seed in seeds] for arm in ARMS}
    comparisons = {}
    for name, what in SETS.items():
        questions = read_questions(data / "questions" / f"{name}.jsonl")
        answers = {"base": [read_answers(base, questions, name)]}
        answers |= {
            arm: [read_answers(run, questions, name) for run in paths]
            for arm, paths in runs.items()
        }
        blind = runs["coat"][0]
        if (blind / "eval" / f"{name}-blind.answers.jsonl").is_file():
            without_audio = [read_answers(run, questions, f"{name}-blind") for run in runs["coat"]]
            answers = {"no audio": without_audio, **answers}
        comparison = comparisons[name] = compare(answers, against=PLAIN_ARMS)
        (folder / f"{name}.json").write_text(json.dumps(comparison, indent=1))
        table = build_table(comparison)
        table.title = f"{what}: {table.title}"
        console.print(table)
        _write_differences(console, comparison)
    _write_verdicts(console, runs, comparisons["test"]["differences"])
    _ablations(console, folder, runs)
    _probes(console, folder, base, runs)
    _cost(console, runs)
    console.file.close()
    return (folder / RESULTS_FILE).read_text()


def _write_verdicts(console: Console, runs: dict[Arm, list[Path]], differences: dict) -> None:
    console.print("\nThe questions that were asked beforehand (benchmarks/miniature/verdicts.py)")
    for arm in WITH_BLOCK:
        files = [run / "ablation.json" for run in runs[arm]]
        if reports := [_json(file) for file in files if file.is_file()]:
            console.print(f"  {describe_use(arm, reports)}")
    for arm in WITH_BLOCK:
        ours = f"{arm} - distill"
        if ours in differences:
            console.print(f"  {describe_benefit(arm, differences[ours]['mean'])}")


def _write_differences(console: Console, comparison: dict) -> None:
    for name, values in comparison["differences"].items():
        cells = [
            f"{task} {part['score']:+.3f} ({part['low']:+.3f} .. {part['high']:+.3f})"
            for task, part in values["tasks"].items()
        ]
        p = ", ".join(f"{value:.3f}" for value in values["mcnemar_p"])
        console.print(f"{name}: {'; '.join(cells)}; McNemar's p by seed: {p}")


def _ablations(console: Console, folder: Path, runs: dict[Arm, list[Path]]) -> None:
    """Means over seeds of the change under each condition, for the arms with a block."""
    chosen = [
        _json(run / "ablation.json")
        for arm in WITH_BLOCK
        for run in runs[arm]
        if (run / "ablation.json").is_file()
    ]
    if not chosen:
        return
    (folder / "ablations.json").write_text(json.dumps(chosen, indent=1))
    console.print("\nIs the block used? Mean score over tasks, by seed (change against intact)")
    for condition in chosen[0]["conditions"]:
        for arm in WITH_BLOCK:
            values = [r["conditions"][condition] for r in chosen if r["arm"] == arm]
            if values:
                cells = [
                    f"{each['mean']['score']:.3f} ({_change(each['change'])})" for each in values
                ]
                console.print(f"  {condition:15s} {arm:6s} {'   '.join(cells)}")
    draw_ablation(folder / "ablations.png", [r for r in chosen if r["seed"] == chosen[0]["seed"]])


def _probes(console: Console, folder: Path, base: Path, runs: dict[Arm, list[Path]]) -> None:
    paths = [base, *(runs[arm][0] for arm in ARMS)]
    reports = [_json(path / "probes.json") for path in paths if (path / "probes.json").is_file()]
    if not reports:
        return
    (folder / "probes.json").write_text(json.dumps(reports, indent=1))
    draw_probes(folder / "probes.png", reports)
    console.print("\nLinear probes: best layer of each position group (see probes.png)")
    for name, target in reports[0]["targets"].items():
        cells = []
        for report in reports:
            best = [
                f"{max(scores):.2f}"
                for group in ("audio", "thinking", "decision")
                if (scores := report["targets"][name]["scores"].get(group))
            ]
            cells.append(f"{report['arm']} {' '.join(best)}")
        console.print(
            f"  {name:22s} {target['metric']:8s} floor {target['floor']:.2f}  {'   '.join(cells)}"
        )
    readings = {
        arm: [_json(run / "reading.json") for run in runs[arm] if (run / "reading.json").is_file()]
        for arm in WITH_HEADS
    }
    (folder / "reading.json").write_text(json.dumps(readings, indent=1))
    for arm in WITH_HEADS:
        for melody in sorted(runs[arm][0].glob("reading-melod*.png"))[:1]:
            shutil.copy(melody, folder / f"reading-{arm}.png")
    for name in readings["coat"][0]["streams"] if readings["coat"] else ():
        first = readings["coat"][0]["streams"][name]
        scores = [
            f"{arm} "
            + ", ".join(f"{_number(reading['streams'][name]['score'])}" for reading in values)
            for arm, values in readings.items()
        ]
        console.print(
            f"  head {name:22s} {first['metric']:20s} mean predictor "
            f"{_number(first['mean_predictor'])}, heads of {'; '.join(scores)}"
        )


def _cost(console: Console, runs: dict[Arm, list[Path]]) -> None:
    console.print("\nWall time of training, pauses included, and held-out (validation) answer loss")
    for arm, paths in runs.items():
        seconds, losses = [], []
        for run in paths:
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            seconds += [line["train_runtime"] for line in lines if "train_runtime" in line]
            losses.append(_json(run / "report.json")["joint"]["answer_loss"])
        shown = ", ".join(f"{loss:.3f}" for loss in losses)
        console.print(f"  {arm:7s} {statistics.mean(seconds):5.0f} s   {shown}")


def _json(path: Path) -> dict:
    return json.loads(path.read_text())


def _change(change: Mapping[str, float | None]) -> str:
    """Formats a change with its interval, which is undefined for the intact student."""
    if change["low"] is None:
        return f"{change['score']:+.3f}"
    return f"{change['score']:+.3f}, {change['low']:+.3f} .. {change['high']:+.3f}"


def _number(value: float | None) -> str:
    """Formats a score, or a dash if it is undefined."""
    return "-" if value is None else f"{value:.3f}"
