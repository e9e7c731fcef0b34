"""Tests for training from a cache in a bucket, whose shards are copied to a local disk."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from manifests.storage import Folder
from student.config import StageConfig
from student.distill.streams import copy_ahead, open_streams
from student.train import train
from tests.student.conftest import model_config, states

STAGE = {"batch_size": 4, "max_steps": 2, "save_steps": 9, "log_steps": 1}


@pytest.fixture
def bucket(s3: Any, toy_data: Any) -> str:
    """The toy cache, in a bucket."""
    target = "s3://data/toy-cache"
    for path in sorted(toy_data.cache.rglob("*")):
        if path.is_file():
            name = path.relative_to(toy_data.cache)
            Folder(f"{target}/{name.parent}").write_atomic(name.name, path.read_bytes())
    return target


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_a_bucket_gives_the_same_student(
    toy_data: Any, checkpoints: Any, bucket: str, tmp_path: Path, workers: int
) -> None:
    results = []
    for name, cache, copies in (("disk", str(toy_data.cache), None),
                                ("bucket", bucket, str(tmp_path / "copies"))):  # fmt: skip
        options = toy_data.options(
            tmp_path / name,
            model=model_config(checkpoints, "qwen2_audio"),
            align=StageConfig(train="embeddings", **STAGE),
            joint=None,
            trainer={"report_to": [], "disable_tqdm": True, "dataloader_num_workers": workers},
        )
        train(dataclasses.replace(options, cache=cache, local_copies=copies))
        results.append(states(tmp_path / name)["align"])
    for name, value in results[0].items():
        assert value.equal(results[1][name]), name
    stored = [path.name for path in (toy_data.cache / "teachers").rglob("*.parquet")
              if path.parent.name == "data"]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "copies").rglob("*.parquet")) == sorted(stored)


def test_copies_are_prefetched_and_sufficient(bucket: str, tmp_path: Path) -> None:
    streams = open_streams([bucket], None, local_copies=str(tmp_path))
    copy_ahead(streams)
    for thread in threading.enumerate():
        if thread.name == "copy-ahead":
            thread.join(timeout=60)
    copies = list(tmp_path.rglob("*.parquet"))
    teacher = streams["toy.events"].reader.teacher  # pyright: ignore[reportOptionalMemberAccess]
    assert len(copies) == len(teacher.shards)
    before = {path: path.stat().st_mtime_ns for path in copies}
    assert streams["toy.events"].frames("clip5", 8).shape == (8, 5)
    assert {path: path.stat().st_mtime_ns for path in copies} == before
