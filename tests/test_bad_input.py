"""Tests that user errors of all commands print one line with advice, and exit with code 2."""

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
def workdir(tmp_path: Path) -> Path:
    """A folder with a valid corpus, a cache of a newer format, and files that are not audio."""
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", [0.0] * 16_000, 16_000)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.pdf").write_text("no audio")
    (tmp_path / "empty").mkdir()
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "cache.json").write_text(json.dumps({"format": 99}))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(Path(RECIPE).read_text() + "\nblokc: {tokens: 3}\n")
    run(tmp_path, "coat-corpus", "build", "audio", "--out", "corpus")
    return tmp_path


def run(workdir: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]], cwd=workdir, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("coat-corpus build nowhere.jsonl --out c", "nowhere.jsonl"),
        ("coat-corpus build papers --out c", "papers"),
        ("coat-corpus build empty --out c", "empty"),
        ("coat-corpus build audio --out newer", "newer is a teacher cache"),
        ("coat-corpus build audio --out papers", "papers is not a corpus"),
        ("coat-corpus stats audio", "not a corpus"),
        ("coat-corpus stats newer", "newer is a teacher cache, expected"),
        ("coat-cache build --corpus nowhere --cache k", "not a corpus"),
        ("coat-cache build --corpus corpus --cache newer", "format 99"),
        ("coat-cache build --corpus corpus --cache corpus", "corpus is a corpus"),
        ("coat-cache build --corpus corpus --cache k --teachers asr,sonar", "sonar"),
        ("coat-cache build --corpus corpus --cache k --preset huge", "huge"),
        ("coat-cache build --corpus corpus --cache k --block-clips -3", "block_clips"),
        ("coat-cache build --corpus corpus --cache k --blocks 3", "--blocks"),
        ("coat-cache build --cache k", "corpus"),
        ("coat-cache status --cache nowhere", "not a teacher cache"),
        ("coat-cache status --cache newer", "upgrade"),
        ("coat-cache show x --cache nowhere", "not a teacher cache"),
        ("coat-cache rm asr --cache newer", "format 99"),
        ("coat-student train --config recipe.yaml --corpus corpus --cache k --out r", "blokc"),
        ("coat-student train --config none.yaml --corpus corpus --cache k --out r", "none.yaml"),
        ("coat-student generate a.wav what --run nowhere", "a.wav"),
        ("coat-student generate audio/a.wav what --run nowhere", "nowhere"),
    ],
)
def test_user_error_prints_one_line_with_advice(workdir: Path, command: str, message: str):
    done = run(workdir, *command.split())
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"{command.split()[0]}: error: ")
    assert message in line


def test_help_shows_options_with_defaults(tmp_path: Path):
    shown = run(tmp_path, "coat-cache", "build", "--help").stdout
    assert "--max-clip-seconds" in shown
    assert "default: 3600.0" in shown
