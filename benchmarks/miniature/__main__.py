"""The miniature from nothing to its table, by the commands that one would type oneself.

    python -m benchmarks.miniature            # see benchmarks/results/miniature for its time
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
from student.config import ARMS, WITH_BLOCK, load_recipe, save_recipe

HERE = Path(__file__).parent
OUT = Path("build/miniature")
BIN = Path(sys.executable).parent
RESULTS = Path("benchmarks/results/miniature")
QUICK_STEPS = 100


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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.miniature")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer clips and steps")
    parser.add_argument("--out", type=Path, help="folder; build/miniature/full or .../quick")
    parser.add_argument("--seeds", type=int, help="how many; 3, or 1 with --quick")
    parser.add_argument("--steps", type=int, help="training steps per arm; the recipe's, or 100")
    options = parser.parse_args()
    out = options.out or OUT / ("quick" if options.quick else "full")
    seeds = range(options.seeds or (1 if options.quick else 3))

    prepare(out, corpus.QUICK if options.quick else corpus.FULL)
    write_recipe(out / "recipe.yaml", options.steps or (QUICK_STEPS if options.quick else None))
    listed = ",".join(map(str, seeds))
    run("coat-student", "arms", "--config", out / "recipe.yaml", "--corpus", out / "corpora/train",
        "--cache", out / "cache", "--out", out / "runs", "--seeds", f"[{listed}]")  # fmt: skip
    ask(out, seeds)
    print(tables.write(out, list(seeds), RESULTS if not options.quick else out / "results"))


def prepare(out: Path, sizes: corpus.Sizes) -> None:
    """Audio, questions, corpora and the teacher cache."""
    if not (out / "questions" / "sources.jsonl").is_file():
        made = corpus.make(out, sizes)
        for name, rows in made.items():
            minutes = sum(row["duration"] for row in rows) / 60
            print(f"{name}: {len(rows)} clips, {minutes:.1f} min")
    for name in ("train", "test"):
        if not (out / "corpora" / name).is_dir():
            run("coat-corpus", "build", out / f"source/{name}.jsonl", "--out",
                out / "corpora" / name, "--clips-per-shard", "64")  # fmt: skip
        run("coat-cache", "build", "--config", HERE / "cache.yaml", "--corpus",
            out / "corpora" / name, "--cache", out / "cache")  # fmt: skip


def write_recipe(path: Path, steps: int | None) -> None:
    """The recipe with the corpus' tasks, and other steps than its own if given."""
    recipe = load_recipe(HERE / "recipe.yaml")
    recipe = replace(recipe, data=replace(recipe.data, tasks=corpus.task_configs()))
    if steps:
        assert recipe.joint is not None
        recipe = replace(recipe, joint=replace(recipe.joint, max_steps=steps))
    save_recipe(recipe, path)


def ask(out: Path, seeds: range) -> None:
    """Tests every arm, with and without audio; whether it uses its block; what its states hold."""
    base = out / "runs" / f"{ARMS[0]}-{seeds[0]}" / "base"
    runs = [out / "runs" / f"{arm}-{seed}" for seed in seeds for arm in ARMS]
    for name in ("test", "sources"):
        asked = out / "questions" / f"{name}.jsonl"
        waiting = _without([base, *runs], f"eval/{name}.json")
        if waiting:
            run("coat-student", "eval", *waiting, "--questions", asked, "--batch-size", "32")
    deaf = _without([path for path in runs if path.name.startswith("coat")], "eval/test-blind.json")
    if deaf:
        run("coat-student", "eval", *deaf, "--questions", out / "questions/test.jsonl",
            "--blind", "--batch-size", "32")  # fmt: skip
    with_block = [path for path in runs if path.name.startswith(WITH_BLOCK)]
    waiting = _without(with_block, "ablation.json")
    if waiting:
        run("coat-student", "ablate", *waiting, "--questions", out / "questions/test.jsonl",
            "--batch-size", "32")  # fmt: skip
    if _without([base, *runs[: len(ARMS)]], "probes.json"):
        run("coat-student", "probe", base, *runs[: len(ARMS)], "--cache", out / "cache",
            "--questions", out / "questions/test.jsonl")  # fmt: skip


def _without(paths: list[Path], result: str) -> list[Path]:
    return [path for path in paths if not (path / result).is_file()]


if __name__ == "__main__":
    main()
