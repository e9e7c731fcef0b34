"""Tests for blocks of clips of unknown duration, which are cut again after decoding."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from manifests.corpus.corpus import build
from pipeline.build.worker import Worker
from tests.pipeline.build.test_scheduler import InProcessBuild
from tests.pipeline.conftest import MakeCorpus
from tests.pipeline.in_process import Process
from tests.pipeline.nodes import cache_contents


def test_decode_ends_a_block_at_the_limit_of_seconds(make_corpus: MakeCorpus):
    clips = [dataclasses.replace(clip, duration=None) for clip in make_corpus(6).shard(0)]
    worker = Worker([], device="cpu", num_threads=1)
    whole, summary = worker.decode(clips, [16_000], 3600.0)
    assert summary.num_left == 0
    limit = sum(whole.durations[:2]) - 0.01
    decoded, summary = worker.decode(clips, [16_000], 3600.0, limit)
    assert decoded.clip_ids == [clip.clip_id for clip in clips[:2]]
    assert summary.num_left == len(clips) - 2


def test_build_with_unknown_durations_limits_the_audio_of_a_block(
    make_corpus: MakeCorpus, tmp_path: Path
):
    known = make_corpus(12)
    unknown = build(
        [dataclasses.replace(clip, duration=None) for clip in known.clips()],
        tmp_path / "unknown",
        name=known.name,
        clips_per_shard=known.contents.clips_per_shard,
    )
    decoded: list[int] = []

    def record_block_size(process: Process, method: str, arguments: tuple) -> None:
        if method == "extract":
            decoded.append(len(arguments[1].read().clip_ids))

    options = {"block_clips": 4, "block_seconds": 1.0}
    InProcessBuild(known, tmp_path / "known_cache", options=options).go()
    InProcessBuild(unknown, tmp_path / "unknown_cache", record_block_size, options=options).go()
    assert max(decoded) < 4, "a block was not cut again"
    assert sum(decoded) == 12
    assert cache_contents(tmp_path / "unknown_cache") == cache_contents(tmp_path / "known_cache")
