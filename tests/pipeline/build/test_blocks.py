"""Blocks of clips whose length nobody knows are cut again once they are decoded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from manifests.corpus.corpus import build
from pipeline.build.worker import Worker
from tests.pipeline.build.test_scheduler import Run
from tests.pipeline.conftest import MakeCorpus
from tests.pipeline.in_process import Process
from tests.pipeline.nodes import contents


def test_a_block_of_unknown_lengths_ends_where_it_is_full(make_corpus: MakeCorpus):
    clips = [dataclasses.replace(clip, duration=None) for clip in make_corpus(6).shard(0)]
    worker = Worker([], device="cpu", num_threads=1)
    whole, summary = worker.decode(clips, [16_000], 3600.0)
    assert summary.num_left == 0
    limit = sum(whole.durations[:2]) - 0.01
    decoded, summary = worker.decode(clips, [16_000], 3600.0, limit)
    assert decoded.clip_ids == [clip.clip_id for clip in clips[:2]]
    assert summary.num_left == len(clips) - 2


def test_a_build_of_unknown_lengths_holds_no_more_audio_than_a_block(
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

    def watch(process: Process, method: str, arguments: tuple) -> None:
        if method == "extract":
            decoded.append(len(arguments[1].read().clip_ids))

    options = {"block_clips": 4, "block_seconds": 1.0}
    Run(known, tmp_path / "known_cache", options=options).go()
    Run(unknown, tmp_path / "unknown_cache", watch, options=options).go()
    assert max(decoded) < 4, "a block was not cut again"
    assert sum(decoded) == 12
    assert contents(tmp_path / "unknown_cache") == contents(tmp_path / "known_cache")
