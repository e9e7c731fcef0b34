"""Tests that a cache and a corpus of format 1, written at commit 652e439, can still be used.

Corpora contain absolute paths of audio, so the sample is copied to the path where it was written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from manifests.cache import marker_index, shards
from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from pipeline import cli
from pipeline.build import plan, setup
from pipeline.build.commit import commit_shard
from pipeline.build.messages import CommitRequest
from pipeline.build.worker import Worker
from pipeline.config import BuildConfig, TeacherConfig
from pipeline.inspect import failures, maintenance, verify
from pipeline.inspect.status import status
from tests.pipeline.conftest import ENERGY

SAMPLE = Path(__file__).parents[1] / "data" / "cache_format_1"
HOME = Path("/tmp/coat-distill-sample-652e439")
TEACHER_KEY = "energy@bf9631cb0e22"


@pytest.fixture
def home() -> Iterator[Path]:
    shutil.rmtree(HOME, ignore_errors=True)
    shutil.copytree(SAMPLE, HOME)
    yield HOME
    shutil.rmtree(HOME)


def config(home: Path) -> BuildConfig:
    return BuildConfig(
        corpus=str(home / "corpus"),
        cache=str(home / "cache"),
        preset="none",
        teacher={"energy": TeacherConfig(family=ENERGY)},
    )


def extend(home: Path, work: Iterator[plan.ShardWork]) -> None:
    """Builds the shards of a plan with one worker in this process."""
    (teacher,) = setup.teachers(config(home))
    assert teacher.spec.key == TEACHER_KEY
    layout = Layout.create(home / "cache")
    layout.register(Corpus(home / "corpus"))
    layout.add_teacher(teacher.spec)
    worker = Worker([teacher], device="cpu", num_threads=1)
    worker.start()
    for shard in work:
        decoded, decoding = worker.decode(shard.clips, [16_000], 3600.0)
        read_blobs, _ = worker.extract("energy", decoded)
        request = CommitRequest(
            spec=teacher.spec,
            folder=layout.shards(teacher.spec, "corpus"),
            shard=shard.number,
            ids=shard.ids,
            done=[clip.clip_id for clip in shard.clips],
            failures=decoding.failures,
            extract_seconds=0.1,
        )
        commit_shard(request, [read_blobs])


def read_blobs(home: Path) -> dict[str, bytes]:
    stream = CacheReader(home / "cache").stream("energy.bands")
    return {clip_id: bytes(frames.blob) for clip_id, frames in stream}


def test_old_cache_opens_and_verifies(home: Path):
    layout = Layout.open(home / "cache")
    assert layout.current()["energy"].key == TEACHER_KEY
    assert list(verify.verify(layout, deep=True)) == []
    assert cli.audit_cache(str(home / "cache"), content_only=True, sample=0) == 0
    (line,) = status(layout)
    assert (line.rows, line.missing, dict(line.failures)) == (3, 2, {"unreadable": 1})
    reader = CacheReader(home / "cache")
    assert [failure.clip_id for failure in reader.teacher("energy").failures()] == ["clip1"]
    assert reader.stream("energy.bands").statistics().num_frames == 43
    assert list(read_blobs(home)) == ["clip0", "clip2", "clip3"]
    (failed,) = failures.failures(layout, list(layout.current().values()))
    assert failed.clip.text == "tone 1"
    assert json.loads((home / "cache" / "cache.json").read_text()) == {"format": 1}


def test_old_cache_is_resumed_grown_and_retried(home: Path):
    before, layout = read_blobs(home), Layout.open(home / "cache")
    spec = layout.current()["energy"]
    corpus = Corpus(home / "corpus")
    missing = plan.missing(layout, corpus, [spec])
    assert missing == {"energy": [1]}
    extend(home, plan.work(corpus, missing))
    assert json.loads((home / "cache" / "cache.json").read_text()) == {"format": 2}
    assert list(read_blobs(home)) == ["clip0", "clip2", "clip3", "clip4", "clip5"]

    soundfile.write(home / "audio" / "1.wav", [0.1, -0.1] * 1000, 8000)
    failed = plan.failed(layout, corpus, [spec])
    assert failed == {"energy": {0: frozenset({"clip1"})}}
    extend(home, plan.rework(corpus, failed))
    assert plan.failed(layout, corpus, [spec]) == {"energy": {}}

    soundfile.write(home / "audio" / "6.wav", [0.2, -0.2] * 1000, 8000)
    added = Clip(clip_id="clip6", uri=str(home / "audio" / "6.wav"))
    corpus = build([*corpus.clips(), added], home / "corpus")
    extend(home, plan.work(corpus, plan.missing(layout, corpus, [spec])))
    result = read_blobs(home)
    assert list(result) == [f"clip{index}" for index in range(7)]
    assert {clip_id: result[clip_id] for clip_id in before} == before
    assert list(verify.verify(layout, deep=True)) == []

    folder = layout.shards(spec, "corpus")
    assert marker_index.refresh(folder) == 1
    assert read_blobs(home) == result
    # The replaced data and failures of the retried shard.
    assert maintenance.compact(layout, older_than_hours=-1).files == 2
    assert read_blobs(home) == result
    versions = [shards.read_marker(folder, number).versions for number in range(3)]
    assert all(version["libsndfile"] and version["ffmpeg"] for version in versions)
