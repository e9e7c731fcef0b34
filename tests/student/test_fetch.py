"""Tests for `coat-student fetch`, and for the error when a backbone is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.errors import UserError
from student import fetch
from student.config import TinyConfig
from student.model.backbones import registry
from student.model.tiny import build_tiny
from tests.served_hub import Hub, serve_hub

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, str]]:
    """A hub with one backbone."""
    folder = tmp_path_factory.mktemp("hub")
    config = TinyConfig(hidden_size=32, layers=1, feed_forward=32, vocabulary=300, tower_width=64,
                        tower_layers=1, whisper_weights=False)  # fmt: skip
    build_tiny(folder / "owner" / "backbone", config, ["a b"], seed=0)
    (folder / "owner" / "backbone" / "code.py").write_text("raise SystemExit")
    (folder / "owner" / "other").mkdir()
    (folder / "owner" / "other" / "config.json").write_text('{"model_type": "llama"}')
    with serve_hub(folder) as (repositories, address):
        yield repositories, address


def coat_student(endpoint: str, home: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", "from student.cli import main; main()", *map(str, words)],
        capture_output=True, text=True, cwd=ROOT, timeout=240,
        env={**clean, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home)},
    )  # fmt: skip


def test_backbone_is_fetched_after_its_sizes_are_printed(
    hub: tuple[Hub, str], tmp_path: Path
) -> None:
    repositories, endpoint = hub
    out = tmp_path / "models"
    listed = coat_student(
        endpoint, tmp_path, "fetch", "owner/backbone", "--out", out, "--list-only"
    )
    assert listed.returncode == 0, listed.stderr
    assert not out.exists()
    size = (repositories.base / "owner" / "backbone" / "model.safetensors").stat().st_size
    assert f"{size / 1e6:10,.1f} MB  model.safetensors" in listed.stdout
    assert "owner/backbone@" in listed.stdout
    assert "qwen2_audio, licence not stated" in listed.stdout
    assert "code.py" not in listed.stdout

    done = coat_student(endpoint, tmp_path, "fetch", "owner/backbone", "--out", out)
    assert done.returncode == 0, done.stderr
    folder = out / "owner" / "backbone"
    assert done.stdout.splitlines()[-1] == f"model.path: {folder}"
    assert done.stdout.index("MB in all") < done.stdout.index("model.path")
    original = repositories.base / "owner" / "backbone"
    fetched = {path.name for path in folder.iterdir() if path.is_file()}
    assert fetched == {path.name for path in original.iterdir()} - {"code.py"}
    assert (folder / "model.safetensors").read_bytes() == (
        original / "model.safetensors"
    ).read_bytes()
    assert registry.backbone_for(str(folder)).audio_end

    # A second call fetches nothing. Another family is rejected before its weights are fetched.
    again = coat_student(endpoint, tmp_path, "fetch", "owner/backbone", "--out", out)
    assert "0.0 MB of them missing" in again.stdout
    other = coat_student(endpoint, tmp_path, "fetch", "owner/other", "--out", out)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "owner/other is a llama model; there are adapters for qwen2_audio" in other.stderr


def test_weights_for_another_loader_are_not_fetched() -> None:
    """Voxtral's repository has its weights in two formats, 9 GB each."""
    fetched_names = (
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tekken.json",
    )
    assert all(fetch.FILES.fullmatch(name) for name in fetched_names)
    assert not fetch.FILES.fullmatch("consolidated.safetensors")


def test_missing_space_is_reported_before_the_download(tmp_path: Path) -> None:
    expected = fetch.Download(
        model="owner/large", revision="0" * 40, family="qwen2_audio", license="apache-2.0",
        files={"model.safetensors": 10**18}, folder=tmp_path,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"GB free, and 1000000000.0 GB are to be downloaded"):
        fetch.download(expected)


def test_missing_backbone_folder_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model.path: there is no folder /nowhere/x$"):
        registry.backbone_for("/nowhere/x")
    with pytest.raises(UserError, match=r"has no config.json, so it is not a checkpoint"):
        registry.backbone_for(str(tmp_path))


def test_missing_backbone_error_names_the_fetch_command(tmp_path: Path) -> None:
    """The hub is asked once, without retries."""
    script = (
        "from student.model.backbones.registry import backbone_for; backbone_for('own/backbone')"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=240,
        env={**clean, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)},
        check=False,
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert (
        "coat-student fetch own/backbone --out models; then set model.path to models/own/backbone"
        in last
    )
    assert "Retrying" not in done.stderr
