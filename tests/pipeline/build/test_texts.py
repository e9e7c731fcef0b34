"""Tests that the texts of a corpus are passed to teachers that use them, and only to those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from manifests.clips import Clip
from pipeline.build.setup import TeacherSetup
from pipeline.build.worker import Worker
from pipeline.config import Resources
from teachers import registry


def make_setup(name: str) -> TeacherSetup:
    family = f"tests.pipeline.fakes:{name}"
    spec = registry.make(name, family, {}).spec()
    return TeacherSetup(name, family, {}, spec, Resources())


def test_worker_passes_texts_only_to_teachers_that_use_them(tmp_path: Path):
    texts = {"first": "hello there", "damaged": "no", "second": None, "third": "bye"}
    clips = []
    for name, text in texts.items():
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=8000), 16_000)
        clips.append(Clip(clip_id=name, uri=str(path), text=text))
    (tmp_path / "damaged.wav").write_bytes(b"no audio at all")
    worker = Worker([make_setup("TextTeacher"), make_setup("Energy")], device="cpu", num_threads=1)
    worker.start()
    decoded, _ = worker.decode(clips, [16_000], 100.0)
    listened, _ = worker.extract("TextTeacher", decoded)
    texts_received = {row.clip_id: row.metadata["text"] for row in listened.rows}
    assert texts_received == {"first": "hello there", "second": None, "third": "bye"}
    single, _ = worker.extract("TextTeacher", decoded, position=2)
    assert [row.metadata["text"] for row in single.rows] == ["bye"]
    without_texts, _ = worker.extract("Energy", decoded)
    assert [row.metadata for row in without_texts.rows] == [{"samples": 8000}] * 3
