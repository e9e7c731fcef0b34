"""Runs the miniature experiment from the audio to the tables, with the commands of a user.

    python -m benchmarks.miniature                   # tasks that need the experts' outputs
    python -m benchmarks.miniature --study labels    # the first edition's tasks
    python -m benchmarks.miniature --quick           # one seed, fewer clips and steps
    python -m benchmarks.miniature --stored          # print the committed tables

The steps are corpus, teacher cache, every arm with every seed, `eval`, `ablate` and `probe`.
A step is skipped if its result exists, so an interrupted run resumes. `verdicts.py` defines the
criteria for "used" and "helps".
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.miniature import corpus, steps, tables

OUT = Path("build/miniature")
RESULTS = Path("benchmarks/results")
QUICK_STEPS = 100
FOLDERS = {"labels": "full", "hearing": "hearing"}
"""Study -> its folder below `build/miniature`, `-quick` appended with --quick."""
RESULT_FOLDERS = {"labels": "miniature", "hearing": "miniature-hearing"}
"""Study -> its folder below `benchmarks/results`; the two are kept apart."""


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.miniature")
    parser.add_argument("--study", choices=tuple(corpus.STUDIES), default="hearing")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer clips and steps")
    parser.add_argument("--out", type=Path, help="folder; below build/miniature")
    parser.add_argument("--seeds", type=int, help="how many; 3, or 1 with --quick")
    parser.add_argument("--steps", type=int, help="training steps per arm; the recipe's, or 100")
    parser.add_argument(
        "--stored", action="store_true", help="print the committed tables, without any run"
    )
    options = parser.parse_args()
    if options.stored:
        print((RESULTS / RESULT_FOLDERS[options.study] / tables.RESULTS_FILE).read_text())
        return
    out = options.out or OUT / (FOLDERS[options.study] + ("-quick" if options.quick else ""))
    seeds = list(range(options.seeds or (1 if options.quick else 3)))

    steps.prepare(out, corpus.QUICK if options.quick else corpus.FULL, options.study)
    number = options.steps or (QUICK_STEPS if options.quick else None)
    steps.write_recipe(steps.HERE / "recipe.yaml", out / "recipe.yaml", options.study, number)
    steps.train(out / "recipe.yaml", out, out / "runs", seeds)
    base = out / "runs" / f"sft-{seeds[0]}" / "base"
    steps.ask(base, out / "runs", out, seeds)
    results = out / "results" if options.quick else RESULTS / RESULT_FOLDERS[options.study]
    command = f"python -m benchmarks.miniature --study {options.study}"
    print(tables.write(base, out / "runs", out, seeds, results, command))


if __name__ == "__main__":
    main()
