"""Tests for `ClipIndex`: from a clip id to its shard and row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests.cache.clip_index import ABSENT, ClipIndex, CorpusClips, clip_keys
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.errors import UserError


def corpus(folder: Path, ids: list[str], per_shard: int = 7) -> Corpus:
    new_clips = [Clip(clip_id=clip_id, uri=f"/audio/{clip_id}.wav") for clip_id in ids]
    return build(new_clips, folder, clips_per_shard=per_shard)


def test_find_returns_shard_and_row_of_every_clip(tmp_path: Path):
    ids = [f"clip{position:03d}" for position in range(100)]
    corpora = {
        "a": corpus(tmp_path / "a", ids[:60]),
        "b": corpus(tmp_path / "b", ids[60:], per_shard=3),
    }
    clips = CorpusClips(corpora)
    places = [("b", 2), ("a", 0), ("a", 8), ("b", 13), ("a", 4)]
    rng = np.random.default_rng(0)
    failed = {clip_id for clip_id in ids if rng.random() < 0.2}
    shards_of_places = [corpora[name].shard_ids(number) for name, number in places]
    failed_ids = failed & {clip_id for shard in shards_of_places for clip_id in shard}
    index = ClipIndex(
        clips, [clips.ordinal(*place) for place in places], clip_keys(sorted(failed_ids))
    )
    expected = {}
    for ordinal, shard in enumerate(shards_of_places):
        assert index.failed_positions(ordinal) == {
            position for position, clip_id in enumerate(shard) if clip_id in failed
        }
        rows = [clip_id for clip_id in shard if clip_id not in failed]
        expected |= {clip_id: (ordinal, row) for row, clip_id in enumerate(rows)}
    assert failed_ids
    assert {clip_id: index.find(clip_id) for clip_id in ids} == {
        clip_id: expected.get(clip_id) for clip_id in ids
    }
    assert index.places(clip_keys(ids)).tolist() == [
        (expected[clip_id][0] << 32) + expected[clip_id][1] if clip_id in expected else ABSENT
        for clip_id in ids
    ]
    assert len(index) == len(expected)


def test_empty_index_finds_no_clip(tmp_path: Path):
    no_keys = np.empty(0, "<u8")
    assert ClipIndex(CorpusClips({}), [], no_keys).find("c") is None
    clips = CorpusClips({"a": corpus(tmp_path, ["a", "b"])})
    assert ClipIndex(clips, [], no_keys).places(clip_keys(["a", "c"])).tolist() == [ABSENT, ABSENT]


def test_corpora_with_a_shared_clip_id_raise_an_error(tmp_path: Path):
    pilot = corpus(tmp_path / "pilot", ["x", "y"])
    whole = corpus(tmp_path / "whole", ["a", "b", "y"])
    with pytest.raises(UserError, match=r"'pilot' and 'whole'.*'y'.*--corpus NAME"):
        CorpusClips({"pilot": pilot, "whole": whole})
