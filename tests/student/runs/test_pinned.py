"""Tests that predictions are compared with the versions of teachers that a run was trained on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from manifests.cache.layout import Layout
from student.config import StreamConfig
from student.runs.folder import Run
from student.runs.pinned import open_run_streams
from tests.manifests.frames import make_cache, spec


class RunOf:
    """A run that was trained on one version of a teacher."""

    folder, recipe = Path("run"), None

    def __init__(self, key: str) -> None:
        self.key = key

    def pinned_streams(self, recipe: Any) -> tuple[dict[str, StreamConfig], dict[str, str]]:
        return {"every.fp16": StreamConfig()}, {"every": self.key}


def test_streams_are_of_the_version_of_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A version that was built later used to be compared with the predictions, without a word."""
    layout: Layout = make_cache(tmp_path)
    old, new = spec(), replace(spec(), settings={"other": 1}, created="2099-01-01T00:00:00+00:00")
    layout.add_teacher(new)
    for corpus in layout.corpora():
        places = [layout.shards(version, corpus).uri for version in (old, new)]
        shutil.copytree(places[0], places[1], dirs_exist_ok=True)
    caches = [str(tmp_path / "cache")]
    for key in (old.key, new.key):
        stream = open_run_streams(cast(Run, RunOf(key)), caches)["every.fp16"]
        assert stream.reader is not None
        assert stream.reader.teacher.spec.key == key
        assert not caplog.text
    stream = open_run_streams(cast(Run, RunOf("every@000000000000")), caches)["every.fp16"]
    assert stream.reader is not None
    assert stream.reader.teacher.spec.key == new.key
    assert "other versions of teachers than it was trained on" in caplog.text
    assert "every@000000000000" in caplog.text
