"""Tests that the commands and programs of the tutorial run unchanged, on synthetic recordings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
BIN = Path(sys.executable).parent
NOT_RUN = ("vllm", "curl")
RATE = 16_000


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A working folder with the recordings that the tutorial uses."""
    (tmp_path / "recordings").mkdir()
    rng = np.random.default_rng(0)
    for number in range(16):
        time = np.arange(int(RATE * rng.uniform(1.0, 2.0))) / RATE
        hertz = rng.uniform(500, 900)
        bell = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in (1, 2, 3)) * np.exp(-3 * time)
        wind = np.convolve(rng.standard_normal(len(time)), np.hanning(40), "same")
        for name, wave in (("bell", bell), ("wind", wind)):
            path = tmp_path / "recordings" / f"{name}-{number:02d}.wav"
            soundfile.write(path, 0.5 * wave / np.abs(wave).max(), RATE)
    return tmp_path


def read_steps() -> list[tuple[str, str]]:
    """Returns the steps of the page: (file name, content) to write, or ("run", command)."""
    result = []
    text = PAGE.read_text("utf-8")
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language in ("python", "yaml"):
            result.append((block.split("\n")[0].removeprefix("# "), block))
        else:
            result += [("run", line) for line in block.splitlines() if line]
    return result


def run_steps(workdir: Path, first: int = 0, last: int | None = None) -> dict[str, str]:
    """Runs a range of the steps, and returns command -> output."""
    printed: dict[str, str] = {}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    for kind, text in read_steps()[first:last]:
        if kind != "run":
            (workdir / kind).write_text(text)
            continue
        if text.startswith(NOT_RUN):
            continue
        done = subprocess.run(
            text, shell=True, cwd=workdir, capture_output=True, text=True, check=False,
            env=os.environ | {"PATH": path, "PYTHONPATH": str(PAGE.parents[1])},
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        printed[text] = done.stdout
    return printed


def test_tutorial_runs_up_to_the_plan(workdir: Path) -> None:
    """These steps need neither Ray nor training."""
    plan = next(
        number for number, (_, text) in enumerate(read_steps()) if "coat-cache plan" in text
    )
    printed = run_steps(workdir, last=plan + 1)
    assert "32 clips (32 new)" in printed[read_steps()[2][1]]
    assert "bell" in printed["coat-corpus stats corpus/"]


@pytest.mark.slow
def test_tutorial_runs_completely(workdir: Path) -> None:
    printed = run_steps(workdir)
    assert "no clip has failed" in printed["coat-cache failures --cache cache/"]
    assert (
        printed['coat-student generate recordings/bell-00.wav "What is heard?" --run run/']
        == (printed["python ask.py"])
    )
    assert printed["python ask.py"].strip() == "bell"
    for page in ("cache", "run"):
        assert (workdir / "report" / page / "index.html").stat().st_size > 100_000
