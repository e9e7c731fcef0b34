"""Varies the recipe of the second study on validation clips, and tests the chosen setting.

    python -m benchmarks.miniature.search     # after python -m benchmarks.miniature

Each setting is trained with seed 0 and asked the validation questions, of which no other table uses
any. The setting of `coat` with the highest score, the heads one layer higher, was then trained with
all seeds for `coat`, `distill` and `both`, and asked the test questions. That comparison was not
pre-registered. A step is skipped if its result exists.
"""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import hardware
from benchmarks.miniature import steps
from student.arm_switches import Arm
from student.evaluation.comparison import build_table, compare
from student.evaluation.question_files import read_questions
from student.evaluation.results import read_answers

DATA = Path("build/miniature/hearing")
RESULT = Path("benchmarks/results/miniature-hearing/search.txt")
BASE: tuple[Arm, ...] = ("sft", "distill", "coat", "both", "coat+bottleneck")
"""Arms of the study itself, which give the first rows."""
SETTINGS: dict[str, tuple[str, ...]] = {
    "coat-layer3": ("--arm", "coat", "--heads.layer", "3"),
    "coat-k24": ("--arm", "coat", "--block.tokens", "24"),
    "coat-lambda2": ("--arm", "coat", "--distill-weight", "2"),
    "coat-until0.5": ("--arm", "coat", "--distill-until", "0.5"),
    "coat-fixed": ("--arm", "coat", "--block.position-seconds", "0.16"),
    "cb-0.2": ("--arm", "coat+bottleneck", "--joint.bottleneck", "0.2"),
    "cb-0.6": ("--arm", "coat+bottleneck", "--joint.bottleneck", "0.6"),
    "cb-answer": ("--arm", "coat+bottleneck", "--joint.bottleneck-blinds", "answer"),
    "distill-token": ("--arm", "distill", "--heads.per-token", "true"),
}
CHOSEN = ("--heads.layer", "3")
CHOSEN_ARMS: tuple[Arm, ...] = ("distill", "coat", "both")
SEEDS = (0, 1, 2)


def main() -> None:
    """Runs the program."""
    common = ("--config", DATA / "recipe.yaml", "--corpus", DATA / "corpora/train",
              "--cache", DATA / "cache")  # fmt: skip
    for name, options in SETTINGS.items():
        if not (DATA / "search" / name / "report.json").is_file():
            steps.run("coat-student", "train", *common, "--out", DATA / "search" / name, *options)
    searched = [DATA / "runs" / f"{arm}-0" for arm in BASE]
    searched += [DATA / "search" / name for name in SETTINGS]
    _ask(searched, "validation")

    chosen = DATA / "chosen"
    arms = [chosen / f"{arm}-{seed}" for arm in CHOSEN_ARMS for seed in SEEDS]
    if any(not (run / "report.json").is_file() for run in arms):
        seeds, names = ",".join(map(str, SEEDS)), ",".join(CHOSEN_ARMS)
        steps.run("coat-student", "arms", *common, "--out", chosen, *CHOSEN, "--seeds",
                  f"[{seeds}]", "--arms", f"[{names}]")  # fmt: skip
    for questions in ("test", "sources"):
        _ask(arms, questions)

    RESULT.parent.mkdir(parents=True, exist_ok=True)
    with RESULT.open("w", encoding="utf-8") as file:
        console = Console(file=file, width=120)
        console.print(f"python -m benchmarks.miniature.search; {hardware.describe()}")
        console.print(_settings_table(searched))
        for questions in ("test", "sources"):
            asked_questions = read_questions(DATA / f"questions/{questions}.jsonl")
            answers = {
                arm: [
                    read_answers(chosen / f"{arm}-{seed}", asked_questions, questions)
                    for seed in SEEDS
                ]
                for arm in CHOSEN_ARMS
            }
            table = build_table(compare(answers, against=("distill",)))
            table.title = f"{' '.join(CHOSEN)}, all seeds, {questions}: {table.title}"
            console.print(table)
    print(RESULT.read_text("utf-8"))


def _ask(runs: list[Path], questions: str) -> None:
    waiting = [run for run in runs if not (run / f"eval/{questions}.json").is_file()]
    if waiting:
        steps.run("coat-student", "eval", *waiting, "--questions",
                  DATA / f"questions/{questions}.jsonl", "--batch-size", "32")  # fmt: skip


def _settings_table(runs: list[Path]) -> Table:
    table = Table("run", "options", "mean score over tasks (95 % interval)")
    for run in runs:
        mean = json.loads((run / "eval/validation.json").read_text("utf-8"))["mean"]
        options = " ".join(SETTINGS.get(run.name, ()))
        shown = f"{mean['score']:.2f} ({mean['low']:.2f} .. {mean['high']:.2f})"
        table.add_row(run.name, options or "the study's recipe", shown)
    return table


if __name__ == "__main__":
    main()
