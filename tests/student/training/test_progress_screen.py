"""Tests for the progress of a training in a terminal of 80 columns and in a log file."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from student.recipe_files import save_recipe
from tests.terminal import record_terminal

ROOT = Path(__file__).parents[3]
TRAIN = [sys.executable, "-m", "student.cli", "train"]


@pytest.fixture
def words(toy_data: Any, tmp_path: Path) -> list[str]:
    """The command of a short training, with the default display of its progress."""
    options = toy_data.options(tmp_path / "run")
    recipe = dataclasses.replace(options.recipe(), trainer={"report_to": []})
    save_recipe(recipe, tmp_path / "recipe.yaml")
    return [
        *TRAIN, "--config", str(tmp_path / "recipe.yaml"), "--corpus", str(options.corpus),
        "--cache", str(toy_data.cache), "--out", str(tmp_path / "run"),
        "--joint.max_steps=6", "--joint.log_steps=1", "--align.max_steps=2",
    ]  # fmt: skip


def test_training_in_a_terminal_shows_a_bar(words: list[str]) -> None:
    session = record_terminal(words, cwd=ROOT)
    assert session.exit_code == 0, session.last
    lines = session.lines()
    # One line has the stage, a bar, the step, the loss, the speed, the memory and the time left.
    bar = re.compile(
        r"^joint \S+ +\d/6 +loss \d+\.\d{3}, \d+\.\d examples/s, \d+\.\d GB +(\d+:\d\d|--:--)$"
    )
    assert [line for line in lines if bar.match(line)], sorted(lines)
    assert [line for line in lines if re.match(r"^validation \S+ +\d+/\d+ batches", line)]
    assert not [line for line in lines if "\N{HORIZONTAL ELLIPSIS}" in line]
    assert not re.search(r"^joint .*/6", session.last, re.MULTILINE), "the bar was not removed"
    assert "joint" in session.last


@pytest.mark.slow
def test_training_in_a_log_file_prints_lines(words: list[str]) -> None:
    script = (
        "import manifests.progress as p; p.FIRST_LINES_S = (0,); p.SECONDS_BETWEEN_LINES = 0;"
        "from student.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words[3:]],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = re.compile(
        r"^joint: step 3 of 6, loss \d+\.\d+, \d+\.\d examples/s, \d+\.\d GB, about \d+ min left$",
        re.MULTILINE,
    )
    assert line.search(done.stderr), done.stderr
    assert "\x1b" not in done.stderr + done.stdout
