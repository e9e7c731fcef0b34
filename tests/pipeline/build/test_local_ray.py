"""Tests for a local Ray cluster: the error if it does not start, and the modules of its workers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from manifests.errors import UserError
from pipeline.build import cluster
from tests.pipeline.conftest import ROOT, MakeCorpus
from tests.pipeline.nodes import ENVIRONMENT


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup. This could happen because ..."),
        RuntimeError("no memory"),
    ],
)
def test_failed_start_of_ray_raises_a_user_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match="a local Ray cluster does not start on this machine"):
        cluster._start_local({})


def test_defect_at_the_start_of_ray_keeps_its_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda *_, **__: {}["missing"])
    with pytest.raises(KeyError):
        cluster._start_local({})


@pytest.mark.parametrize("way", ["PYTHONPATH", "--py-modules"])
def test_workers_do_not_look_for_modules_in_the_working_folder(
    way: str, make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    """Ray adds this folder. The command does not look there, and described another module."""
    here, own = tmp_path / "here", tmp_path / "own"
    here.mkdir()
    own.mkdir()
    shutil.copy(ROOT / "examples/own_teacher.py", own / "loud.py")
    (here / "loud.py").write_text("raise RuntimeError('the wrong module')")
    options = ["--py-modules", json.dumps([str(own / "loud.py")])] if way[0] == "-" else []
    environment = ENVIRONMENT | ({} if options else {way: str(own)})
    teacher = {"loudness": {"family": "loud:Loudness"}}
    done = subprocess.run(
        [Path(sys.executable).parent / "coat-cache", "build", "--preset", "none",
         "--corpus", make_corpus(4).folder.uri, "--cache", tmp_path / "cache",
         "--teacher", json.dumps(teacher), *options],
        cwd=here, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 clips" in done.stdout
