"""Tests mistakes on the command line: one line with advice, exit code 2, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

BIN = Path(sys.executable).parent
RECIPE = "student/recipes/demo.yaml"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a valid corpus, a cache of a newer format, and files that are not audio."""
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", [0.0] * 16_000, 16_000)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.pdf").write_text("no audio")
    (tmp_path / "empty").mkdir()
    (tmp_path / "tomorrow").mkdir()
    (tmp_path / "tomorrow" / "cache.json").write_text(json.dumps({"format": 99}))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(Path(RECIPE).read_text() + "\nblokc: {tokens: 3}\n")
    run(tmp_path, "coat-corpus", "build", "audio", "--out", "corpus")
    return tmp_path


def run(place: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]], cwd=place, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("coat-corpus build nowhere.jsonl --out c", "nowhere.jsonl"),
        ("coat-corpus build papers --out c", "papers"),
        ("coat-corpus build empty --out c", "empty"),
        ("coat-corpus stats audio", "not a complete corpus"),
        ("coat-cache build --corpus nowhere --cache k", "not a complete corpus"),
        ("coat-cache build --corpus corpus --cache tomorrow", "format 99"),
        ("coat-cache build --corpus corpus --cache k --teachers asr,sonar", "sonar"),
        ("coat-cache build --corpus corpus --cache k --preset huge", "huge"),
        ("coat-cache build --corpus corpus --cache k --block-clips -3", "block_clips"),
        ("coat-cache build --corpus corpus --cache k --blocks 3", "--blocks"),
        ("coat-cache build --cache k", "corpus"),
        ("coat-cache status --cache nowhere", "not a teacher cache"),
        ("coat-cache status --cache tomorrow", "upgrade"),
        ("coat-cache show x --cache nowhere", "not a teacher cache"),
        ("coat-cache rm asr --cache tomorrow", "format 99"),
        ("coat-student train --config recipe.yaml --corpus corpus --cache k --out r", "blokc"),
        ("coat-student train --config none.yaml --corpus corpus --cache k --out r", "none.yaml"),
        ("coat-student generate a.wav what --run nowhere", "a.wav"),
        ("coat-student generate audio/a.wav what --run nowhere", "nowhere"),
    ],
)
def test_one_clear_line(place: Path, command: str, says: str):
    done = run(place, *command.split())
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"{command.split()[0]}: error: ")
    assert says in line


def test_help_shows_defaults_and_units(tmp_path: Path):
    shown = run(tmp_path, "coat-cache", "build", "--help").stdout
    assert "--max-clip-seconds" in shown
    assert "default: 3600.0" in shown
