"""Compares students trained on a cache with the default codecs and on one with raw fp16.

    python -m benchmarks.student_codecs --corpus demo/corpus --work build/student_codecs

Two caches of one corpus, the embedded experts' own codecs and fp16 for every stream; the demo's
recipe trained on each with the same seeds. All students are then measured against the fp16 targets
of the held-out clips. What the codecs cost is the difference of the means, to be compared with
the variation between seeds. An interrupted run resumes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import mean

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from manifests.cache.layout import Layout
from pipeline.build.setup import teachers
from pipeline.config import BuildConfig
from pipeline.inspect.status import status
from student.evaluation.analysis.head_quality import read_run

console = Console(highlight=False, width=110)


def run(command: str, *words: str | Path) -> None:
    """Runs one command of this project."""
    subprocess.run([Path(sys.executable).parent / command, *map(str, words)], check=True)


def build_cache(corpus: str, folder: Path, codec: str) -> str:
    """Builds a cache of the corpus with the embedded experts, with `codec` for every stream or
    their own codecs."""
    config: dict = {"corpus": corpus, "cache": str(folder / "cache")}
    if codec:
        config["teacher"] = {
            setup.name: {"codecs": {stream.name: codec for stream in setup.spec.streams}}
            for setup in teachers(BuildConfig(**config))
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.yaml").write_text(yaml.safe_dump(config))
    run("coat-cache", "build", "--config", folder / "build.yaml")
    return config["cache"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpus", default="demo/corpus")
    parser.add_argument("--recipe", default="student/recipes/demo.yaml")
    parser.add_argument("--work", type=Path, default=Path("build/student_codecs"))
    parser.add_argument("--seeds", type=int, default=2, help="students per cache")
    options = parser.parse_args()
    caches = {
        "fp16": build_cache(options.corpus, options.work / "fp16", "fp16"),
        "codecs": build_cache(options.corpus, options.work / "codecs", ""),
    }
    results: dict[str, list[dict]] = {name: [] for name in caches}
    for name, cache in caches.items():
        for seed in range(options.seeds):
            out = options.work / name / f"student-{seed}"
            run("coat-student", "train", "--config", options.recipe, "--corpus", options.corpus,
                "--cache", cache, "--out", out, "--seed", seed)  # fmt: skip
            results[name].append(read_run(out, [caches["fp16"]], pictures=0)["streams"])
    sizes = {
        name: sum(line.cache_bytes for line in status(Layout.open(cache)))
        for name, cache in caches.items()
    }
    table = Table(
        title=f"Held-out metric against fp16 targets, {options.seeds} seeds; cache "
        f"{sizes['codecs'] / 1e6:.1f} MB against {sizes['fp16'] / 1e6:.1f} MB"
    )
    for heading in ("stream", "from fp16", "from codecs", "difference", "between seeds"):
        table.add_column(heading, justify="left" if heading == "stream" else "right")
    for stream in results["fp16"][0]:
        scores = {name: [report[stream]["score"] for report in results[name]] for name in results}
        raw, ours = (mean(scores[name]) for name in ("fp16", "codecs"))
        spread = max(max(values) - min(values) for values in scores.values())
        table.add_row(stream, f"{raw:.4f}", f"{ours:.4f}", f"{ours - raw:+.4f}", f"{spread:.4f}")
    console.print(describe())
    console.print(table)


if __name__ == "__main__":
    main()
