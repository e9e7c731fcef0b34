"""The miniature from nothing to its table, by the commands that one would type oneself.

    python -m benchmarks.miniature            # about an hour on one core
    python -m benchmarks.miniature --quick    # one seed, fewer clips: under ten minutes on two

Corpus, teacher cache, then every arm with every seed, then what they answer, whether the block is
used, and where what they know lives. Every step is skipped when its result is there, so an
interrupted run goes on.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.miniature import corpus, tables
from student.config import load_recipe, save_recipe

HERE = Path(__file__).parent
OUT = Path("build/miniature")
BIN = Path(sys.executable).parent
ARMS = ("sft", "pause", "coat")


def run(*command: str | Path) -> None:
    """Runs one command of ours, shown as one would type it."""
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    began = time.monotonic()
    done = subprocess.run([str(BIN / words[0]), *words[1:]], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    print(f"({time.monotonic() - began:.0f} s)", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.miniature", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="one seed, fewer clips and steps")
    parser.add_argument("--out", type=Path, help="folder; build/miniature/full or .../quick")
    parser.add_argument("--seeds", type=int, help="how many; 3, or 1 with --quick")
    options = parser.parse_args()
    out = options.out or OUT / ("quick" if options.quick else "full")
    seeds = range(options.seeds or (1 if options.quick else 3))

    prepare(out, corpus.QUICK if options.quick else corpus.FULL)
    write_recipe(out / "recipe.yaml", quick=options.quick)
    listed = ",".join(map(str, seeds))
    run("coat-student", "arms", "--config", out / "recipe.yaml", "--corpus", out / "corpora/train",
        "--cache", out / "cache", "--out", out / "runs", "--seeds", f"[{listed}]")  # fmt: skip
    runs = [out / "runs" / f"{arm}-{seed}" for seed in seeds for arm in ARMS]
    ask(out, runs)
    print(tables.write(out, list(seeds)))


def prepare(out: Path, sizes: corpus.Sizes) -> None:
    """Audio, questions, corpora and the teacher cache."""
    if not (out / "questions" / "sources.jsonl").is_file():
        made = corpus.make(out, sizes)
        for name, rows in made.items():
            minutes = sum(row["duration"] for row in rows) / 60
            print(f"{name}: {len(rows)} clips, {minutes:.1f} min")
    if not (out / "corpora" / "train").is_dir():
        run("coat-corpus", "build", out / "source/train.jsonl", "--out", out / "corpora/train",
            "--clips-per-shard", "64")  # fmt: skip
    run("coat-cache", "build", "--config", HERE / "cache.yaml", "--corpus", out / "corpora/train",
        "--cache", out / "cache")  # fmt: skip


def write_recipe(path: Path, *, quick: bool) -> None:
    """The recipe with the corpus' tasks, at the size that is asked for."""
    recipe = load_recipe(HERE / "recipe.yaml")
    recipe = replace(recipe, data=replace(recipe.data, tasks=corpus.task_configs()))
    if quick:
        assert recipe.joint is not None
        recipe = replace(recipe, joint=replace(recipe.joint, epochs=QUICK_EPOCHS))
    save_recipe(recipe, path)


QUICK_EPOCHS = 5.0


def ask(out: Path, runs: list[Path]) -> None:
    """Tests every arm, and whether it uses its block."""
    for name in ("test", "sources"):
        asked = out / "questions" / f"{name}.jsonl"
        waiting = [path for path in (runs[0] / "base", *runs)
                   if not (path / "eval" / f"{name}.json").is_file()]  # fmt: skip
        if waiting:
            run("coat-student", "eval", *waiting, "--questions", asked)
    for path in runs:
        if not (path / "ablation.json").is_file():
            run("coat-student", "ablate", path, "--questions", out / "questions/test.jsonl")


if __name__ == "__main__":
    main()
