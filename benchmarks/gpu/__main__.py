"""Measures on a GPU: correctness, speed, load, and the cost of the block at 7B.

    python -m benchmarks.gpu                      # every section that has no table yet
    python -m benchmarks.gpu --sections student   # one of them

Needs torch, transformers and peft, but no model hub: weights are random, at true sizes. Only `job`
needs Ray, and reports if it is missing. Each section runs in its own process for at most 8 minutes,
writes each row when it is measured, and resumes after the last row when it is called again. On a
machine without a GPU, the sections run at toy size and write to a build folder; those numbers are
meaningless.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.gpu.record import SECTION_S, Record, card

RESULTS = Path("benchmarks/results/gpu")
TOYS = Path("build/gpu-toys")
SECTIONS = ("right", "teachers", "job", "student", "evidence")


def main() -> None:
    """Runs sections, each in its own process."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--sections", default=",".join(SECTIONS), help="names, with commas")
    parser.add_argument("--out", type=Path, help="folder of the results; below it the card's name")
    parser.add_argument("--minutes", type=float, default=SECTION_S / 60, help="of each section")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sections = options.sections.split(",")
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown:
        parser.error(f"there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    has_gpu = torch.cuda.is_available()
    base = options.out or (RESULTS if has_gpu else TOYS)
    folder = base / re.sub(r"[^a-z0-9]+", "-", card().lower()).strip("-")
    if options.here:
        disable_progress_bar()
        (name,) = sections
        record = Record(folder, name, budget_s=60 * options.minutes)
        importlib.import_module(f"benchmarks.gpu.{name}").run(record, toy=not has_gpu)
        return
    failed = [name for name in sections if not _run(name, folder, options)]
    sys.exit(1 if failed else 0)


def _run(name: str, folder: Path, options: argparse.Namespace) -> bool:
    record = Record(folder, name)
    if record.table.is_file():
        print(f"{name}: {record.table} is there", flush=True)
        return True
    command = [sys.executable, "-m", "benchmarks.gpu", "--here", "--sections", name,
               "--minutes", str(options.minutes)]  # fmt: skip
    if options.out:
        command += ["--out", str(options.out)]
    try:
        done = subprocess.run(command, check=False, timeout=60 * options.minutes + 120)
    except subprocess.TimeoutExpired:
        print(f"{name}: hangs, and was ended; its rows are kept", flush=True)
        return False
    failures = [row for row in record.rows() if "failed" in row]
    for row in failures:
        print(f"{name}: FAILED {row}", flush=True)
    return done.returncode == 0 and not failures


if __name__ == "__main__":
    main()
