"""Tests that each example runs as a program, on a small corpus and its cache."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.cache.layout import Layout
from manifests.clips import Clip
from manifests.corpus.corpus import build
from tests.pipeline.report_cache import make_cache

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `things`, a corpus of 24 clips, and `cache`, its teacher cache."""
    folder = tmp_path_factory.mktemp("examples")
    make_cache(folder)
    # The cache has a clip without a file; training needs all files.
    shutil.copy(folder / "audio" / "006.wav", folder / "audio" / "004.wav")
    return folder


def run_python(*words: str | Path, cwd: Path, **environment: str) -> str:
    """Runs a Python program that must succeed, and returns its stdout."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"} | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_corpus_reads_labels_from_folders_and_names(workspace: Path, tmp_path: Path) -> None:
    import soundfile

    for name in ("glass-breaking/anna_1.wav", "glass-breaking/bert_1.wav", "rain/1.wav"):
        path = tmp_path / "recordings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, [0.0] * 8000, 16_000)
    output = run_python("-m", "examples.own_corpus", "recordings", "--out", "corpus", cwd=tmp_path)
    assert output.startswith("corpus: 3 clips")
    from manifests.corpus.corpus import Corpus

    assert Corpus(tmp_path / "corpus").seconds == 1.5
    labels = [dict(clip.labels) for clip in Corpus(tmp_path / "corpus").clips()]
    assert labels == [
        {"sound": "glass breaking", "speaker": "anna"},
        {"sound": "glass breaking", "speaker": "bert"},
        {"sound": "rain"},
    ]


def test_plain_pytorch_predicts_one_stream_from_another(workspace: Path) -> None:
    words = ("--source", "asr.encoder", "--target", "mood.lld", "--epochs", "40")
    output = run_python("-m", "examples.plain_pytorch", *words, cwd=workspace)
    result = re.search(r"explains (-?[\d.]+)% of mood.lld on 4 unseen clips", output)
    assert result, output
    # Both streams are non-zero where the clip has sound.
    assert float(result[1]) > 80
    done = subprocess.run(
        [sys.executable, "-m", "examples.plain_pytorch", "--source", "asr.encodr"],
        capture_output=True, text=True, cwd=workspace, env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_two_backbones_trains_both_on_one_cache(workspace: Path) -> None:
    run_python(
        "-m", "examples.two_backbones", "--corpus", "things", "--steps", "2", "--out", "runs",
        cwd=workspace,
    )  # fmt: skip
    for family in ("qwen2_audio", "audioflamingo3"):
        report = json.loads((workspace / "runs" / family / "report.json").read_text())
        assert set(report) == {"before", "align", "joint"}
        assert {"asr.encoder/metric", "sounds.events/metric"} <= set(report["joint"])


def notebook_program(path: Path) -> Path:
    """Writes the code of the notebook as a program."""
    cells = json.loads((ROOT / "examples/walk_through.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), (
        "the notebook must be committed without outputs"
    )
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    path.write_text("\n\n".join(code))
    return path


def test_notebook_runs_and_is_stored_without_outputs(workspace: Path, tmp_path: Path) -> None:
    program = notebook_program(tmp_path / "notebook.py")
    output = run_python(program, cwd=workspace, COAT_CACHE=str(workspace / "cache"))
    for part in (
        "asr.encoder: features, 20 columns, 50.00 Hz",
        "music: 23 with targets, 1 failed, 0 not run yet",
        "mood: 16 with targets, 0 failed, 8 not run yet",
        "the same as through the reader",
        "unchanged",
    ):
        assert part in output, output


def test_notebook_shows_one_of_several_corpora(workspace: Path, tmp_path: Path) -> None:
    """The first corpus has no targets, and the last one has the most clips."""
    cache = shutil.copytree(workspace / "cache", tmp_path / "cache")
    for name, count in (("a", 3), ("z", 110)):
        clips = [Clip(clip_id=f"{name}{number}", uri=f"/{number}.wav") for number in range(count)]
        Layout.open(cache).register(build(clips, tmp_path / name))
    program = notebook_program(tmp_path / "notebook.py")
    output = run_python(program, cwd=workspace, COAT_CACHE=str(cache))
    assert "corpus things: 24 clips" in output
    assert "music: 23 with targets, 1 failed, 0 not run yet" in output
    assert "unchanged" in output
