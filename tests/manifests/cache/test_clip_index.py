"""Where a clip is, among very many."""

from __future__ import annotations

import pytest

from manifests.cache.clip_index import ClipIndex


def test_every_clip_is_found_where_it_is():
    shards = [[f"{shard}/{row}" for row in range(shard + 1)] for shard in range(40)]
    index = ClipIndex(shards)
    assert len(index) == sum(map(len, shards))
    for ordinal, ids in enumerate(shards):
        for row, clip_id in enumerate(ids):
            assert index.find(clip_id) == (ordinal, row)


@pytest.mark.parametrize("shards", [[], [[]], [["a"], [], ["b"]]])
def test_an_absent_clip_is_not_found(shards: list[list[str]]):
    assert ClipIndex(shards).find("c") is None


def test_a_clip_in_two_places_is_an_error():
    with pytest.raises(ValueError, match="two places"):
        ClipIndex([["a", "b"], ["c", "a"]])
