"""Tests the index of clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests.cache.clip_index import ABSENT, ClipIndex, CorpusClips, clip_keys
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.errors import UserError


def corpus(folder: Path, ids: list[str], per_shard: int = 7) -> Corpus:
    made = [Clip(clip_id=clip_id, uri=f"/audio/{clip_id}.wav") for clip_id in ids]
    return build(made, folder, clips_per_shard=per_shard)


def test_every_row_is_found_where_it_is(tmp_path: Path):
    ids = [f"clip{position:03d}" for position in range(100)]
    corpora = {
        "a": corpus(tmp_path / "a", ids[:60]),
        "b": corpus(tmp_path / "b", ids[60:], per_shard=3),
    }
    clips = CorpusClips(corpora)
    places = [("b", 2), ("a", 0), ("a", 8), ("b", 13), ("a", 4)]
    rng = np.random.default_rng(0)
    failed = {clip_id for clip_id in ids if rng.random() < 0.2}
    here = [corpora[name].shard_ids(number) for name, number in places]
    failed_here = failed & {clip_id for shard in here for clip_id in shard}
    index = ClipIndex(
        clips, [clips.ordinal(*place) for place in places], clip_keys(sorted(failed_here))
    )
    expected = {}
    for ordinal, shard in enumerate(here):
        assert index.failed_positions(ordinal) == {
            position for position, clip_id in enumerate(shard) if clip_id in failed
        }
        rows = [clip_id for clip_id in shard if clip_id not in failed]
        expected |= {clip_id: (ordinal, row) for row, clip_id in enumerate(rows)}
    assert failed_here
    assert {clip_id: index.find(clip_id) for clip_id in ids} == {
        clip_id: expected.get(clip_id) for clip_id in ids
    }
    assert index.places(clip_keys(ids)).tolist() == [
        (expected[clip_id][0] << 32) + expected[clip_id][1] if clip_id in expected else ABSENT
        for clip_id in ids
    ]
    assert len(index) == len(expected)


def test_nothing_is_found_in_an_empty_index(tmp_path: Path):
    nothing = np.empty(0, "<u8")
    assert ClipIndex(CorpusClips({}), [], nothing).find("c") is None
    clips = CorpusClips({"a": corpus(tmp_path, ["a", "b"])})
    assert ClipIndex(clips, [], nothing).places(clip_keys(["a", "c"])).tolist() == [ABSENT, ABSENT]


def test_corpora_that_share_an_id_are_reported(tmp_path: Path):
    pilot = corpus(tmp_path / "pilot", ["x", "y"])
    whole = corpus(tmp_path / "whole", ["a", "b", "y"])
    with pytest.raises(UserError, match=r"'pilot' and 'whole'.*'y'.*--corpus NAME"):
        CorpusClips({"pilot": pilot, "whole": whole})
