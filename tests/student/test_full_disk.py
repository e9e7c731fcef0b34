"""Tests commands on a full disk: they print one line, exit with code 2, and continue when there is
space again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manifests import cli as corpus_cli
from student import cli as student_cli
from student.config import StageConfig
from student.recipe_files import save_recipe
from student.runs.folder import Run
from tests.student.conftest import model_config, states
from tests.student.full_disk import SmallDisk


@pytest.fixture(params=["disk"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    """A small file system, or a limit on the size of files."""
    small = SmallDisk(tmp_path / "small", mounts=request.param == "disk")
    yield small
    small.close()


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs a command line, and returns its exit code and stderr."""

    def run(main: Callable[[], None], *words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["coat", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().err

    return run


def is_full_disk_error(result: tuple[int, str]) -> bool:
    """Returns whether a command failed with the one-line error of a full disk."""
    code, stderr = result
    lines = [line for line in stderr.splitlines() if "error: " in line]
    return (
        code == 2
        and len(lines) == 1
        and "free some space" in lines[0]
        and "Traceback" not in stderr
    )


@pytest.mark.parametrize(
    ("disk", "leaving"),
    [("disk", 0), ("disk", 20_000), ("disk", 400_000), ("limit", 20_000)],
    indirect=["disk"],
)
def test_training_on_a_full_disk_resumes_when_there_is_space(
    toy_data: Any, tmp_path: Path, checkpoints: Any, disk: SmallDisk, command: Any, leaving: int
) -> None:
    """The disk is full at the start, while writing examples, or while writing a checkpoint."""
    stage = StageConfig(train="lora", batch_size=4, max_steps=2, save_steps=1, warmup=0.0)
    options = toy_data.options(
        disk.folder / "run",
        model=model_config(checkpoints, "qwen2_audio"),
        align=None,
        joint=stage,
    )
    recipe = tmp_path / "recipe.yaml"
    save_recipe(options.recipe(), recipe)
    words = ["train", "--config", recipe, "--corpus", options.corpus, "--cache", options.cache,
             "--out", options.out]  # fmt: skip
    with disk.full(leaving):
        assert is_full_disk_error(command(student_cli.main, *words))
    assert command(student_cli.main, *words)[0] == 0
    assert Run(options.out).report().keys() == {"before", "joint"}
    assert states(Path(options.out)).keys() == {"joint"}
    left = {path.name for path in Path(options.out).rglob("*") if ".part" in path.name}
    assert not left


def test_commands_on_a_full_disk_keep_earlier_files(
    runs: Callable[[str], Path], disk: SmallDisk, command: Any
) -> None:
    """These are the scores, replies and report page of a run; an export leaves no partial files."""
    run = disk.folder / "run"
    shutil.copytree(runs("qwen2_audio"), run, ignore=shutil.ignore_patterns("checkpoint-*"))
    eval_words = ["eval", run, "--limit", "4"]
    report_words = ["report", run, "--out", run / "report"]
    assert command(student_cli.main, *eval_words)[0] == 0
    assert command(student_cli.main, *report_words)[0] == 0
    files = [*(run / "eval").iterdir(), run / "report" / "index.html"]
    before = {file: file.read_bytes() for file in files}
    export_words = ["export", run, disk.folder / "export"]
    with disk.full():
        for words in (eval_words, report_words, export_words):
            assert is_full_disk_error(command(student_cli.main, *words)), words
        assert {file: file.read_bytes() for file in files} == before
        assert not list(disk.folder.glob("export*"))
    for words in (eval_words, report_words, export_words):
        assert command(student_cli.main, *words)[0] == 0, words
    (scores,) = (file for file in files if file.name.endswith("-limit4.json"))
    assert json.loads(scores.read_text())["questions"] == 4


@pytest.mark.parametrize("disk", ["disk", "limit"], indirect=True)
def test_corpus_build_on_a_full_disk_succeeds_when_there_is_space(
    tmp_path: Path, toy_data: Any, disk: SmallDisk, command: Any
) -> None:
    rows = [{"audio_filepath": clip.uri, "duration": clip.duration} for clip in toy_data.clips]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["build", manifest, "--out", disk.folder / "corpus"]
    with disk.full():
        assert is_full_disk_error(command(corpus_cli.main, *words))
    assert command(corpus_cli.main, *words)[0] == 0
    assert command(corpus_cli.main, "stats", disk.folder / "corpus")[0] == 0
