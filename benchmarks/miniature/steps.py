"""Runs the steps of a study with the commands of a user.

A step is skipped if its result exists, so an interrupted study resumes.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.miniature import corpus
from student.arm_switches import ARMS, SWITCHES, Arm
from student.recipe_files import load_recipe, save_recipe

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


def run(*command: str | Path) -> None:
    """Prints and runs one command of this project."""
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    start = time.monotonic()
    done = subprocess.run([str(BIN / words[0]), *words[1:]], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    print(f"({time.monotonic() - start:.0f} s)", flush=True)


def prepare(out: Path, sizes: corpus.Sizes, study: str) -> None:
    """Creates audio, questions, corpora and the teacher cache."""
    if not (out / "questions" / "sources.jsonl").is_file():
        made = corpus.make(out, sizes, study)
        for name, rows in made.items():
            minutes = sum(row["duration"] for row in rows) / 60
            print(f"{name}: {len(rows)} clips, {minutes:.1f} min")
    for name in ("train", "test"):
        if not (out / "corpora" / name).is_dir():
            run("coat-corpus", "build", out / f"source/{name}.jsonl", "--out",
                out / "corpora" / name, "--clips-per-shard", "64")  # fmt: skip
        run("coat-cache", "build", "--config", HERE / "cache.yaml", "--corpus",
            out / "corpora" / name, "--cache", out / "cache")  # fmt: skip


def write_recipe(recipe_file: Path, path: Path, study: str, steps: int | None) -> None:
    """Writes a recipe with the study's tasks and, if given, another number of steps."""
    recipe = load_recipe(recipe_file)
    recipe = replace(recipe, data=replace(recipe.data, tasks=corpus.task_configs(study)))
    if steps:
        assert recipe.joint is not None
        recipe = replace(recipe, joint=replace(recipe.joint, max_steps=steps))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, path)


def train(recipe: Path, data: Path, runs: Path, seeds: Sequence[int], *changes: str) -> None:
    """Trains every arm with every seed.

    Args:
        recipe: Its file.
        data: Folder of corpora and cache.
        runs: Folder of the runs.
        seeds: One run per arm and seed.
        changes: Further options of `coat-student arms`.
    """
    listed = ",".join(map(str, seeds))
    run("coat-student", "arms", "--config", recipe, "--corpus", data / "corpora/train", "--cache",
        data / "cache", "--out", runs, "--seeds", f"[{listed}]", "--arms", f"[{','.join(ARMS)}]",
        *changes)  # fmt: skip


def ask(
    base: Path, runs: Path, data: Path, seeds: Sequence[int], *, ablation_limit: int = 0
) -> None:
    """Evaluates every arm with and without audio, tests the use of its block, and probes its
    states.

    Args:
        base: The initial checkpoint of all arms.
        runs: Folder of the runs.
        data: Folder of questions and cache.
        seeds: Seeds that were trained.
        ablation_limit: Number of test questions for `ablate`, evenly spread; 0 for all.
    """
    folders: dict[tuple[int, Arm], Path] = {
        (seed, arm): runs / f"{arm}-{seed}" for seed in seeds for arm in ARMS
    }
    test = data / "questions" / "test.jsonl"
    for name in ("test", "sources"):
        question_file = data / "questions" / f"{name}.jsonl"
        unfinished = _without([base, *folders.values()], f"eval/{name}.json")
        if unfinished:
            run(
                "coat-student",
                "eval",
                *unfinished,
                "--questions",
                question_file,
                "--batch-size",
                "32",
            )
    without_audio = [folder for (_, arm), folder in folders.items() if arm == "coat"]
    without_audio = _without(without_audio, "eval/test-blind.json")
    if without_audio:
        run(
            "coat-student",
            "eval",
            *without_audio,
            "--questions",
            test,
            "--blind",
            "--batch-size",
            "32",
        )
    with_block = [folder for (_, arm), folder in folders.items() if SWITCHES[arm].block]
    unfinished = _without(with_block, "ablation.json")
    if unfinished:
        run("coat-student", "ablate", *unfinished, "--questions", test, "--batch-size", "32",
            "--limit", str(ablation_limit))  # fmt: skip
    probed = [base, *(folders[seeds[0], arm] for arm in ARMS)]
    if _without(probed, "probes.json"):
        run("coat-student", "probe", *probed, "--cache", data / "cache", "--questions", test)


def _without(paths: list[Path], result: str) -> list[Path]:
    return [path for path in paths if not (path / result).is_file()]
