"""Tests that each shard contains a bounded duration of audio."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from manifests.cache.layout import Layout
from manifests.clips import Clip
from manifests.corpus import corpus as corpora
from manifests.corpus.corpus import Corpus, build
from manifests.corpus.shard_sizes import MAX_SECONDS
from manifests.errors import UserError


def make_clips(seconds: Sequence[float | None], first: int = 0) -> list[Clip]:
    return [
        Clip(clip_id=f"{index:06d}", uri=f"/{index}.wav", duration=each)
        for index, each in enumerate(seconds, first)
    ]


def longest_shard_seconds(corpus: Corpus) -> float:
    return max(
        sum(clip.duration or 0.0 for clip in corpus.shard(number))
        for number in range(corpus.num_shards)
    )


def check_reads(corpus: Corpus, expected: list[Clip]) -> None:
    """Checks that clips, shards and rows of a corpus are those expected."""
    assert list(corpus.clips()) == expected
    sizes = corpus.shard_sizes()
    assert [len(corpus.shard(number)) for number in range(corpus.num_shards)] == sizes
    for row in range(0, len(expected), 37):
        assert corpus.clip(row) == expected[row]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "BATCH", 512)


def test_long_clips_after_short_ones_get_smaller_shards(tmp_path: Path):
    made = make_clips([5.0] * 600 + [3600.0] * 300 + [5.0] * 900)
    corpus = build(made, tmp_path / "corpus")
    check_reads(corpus, made)
    assert longest_shard_seconds(corpus) <= MAX_SECONDS
    assert max(corpus.shard_sizes()) == 256  # where the clips are short
    assert json.loads((tmp_path / "corpus" / "corpus.json").read_text())["format"] == 3


def test_mixed_durations_need_few_parts(tmp_path: Path):
    rng = np.random.default_rng(0)
    made = make_clips(rng.exponential(300.0, 6000).clip(1, 3600).tolist())
    corpus = build(made, tmp_path / "corpus")
    check_reads(corpus, made)
    assert longest_shard_seconds(corpus) <= MAX_SECONDS
    assert len(corpus.parts) <= 3
    assert np.mean(corpus.shard_sizes()) > 30


def test_clips_of_unknown_duration_count_like_their_neighbours(tmp_path: Path):
    seconds = [3600.0 if index % 2 else None for index in range(600)]
    corpus = build(make_clips(seconds), tmp_path / "corpus")
    assert set(corpus.shard_sizes()) == {4}
    unknown = build(make_clips([None] * 600), tmp_path / "unknown")
    assert unknown.shard_sizes() == [256, 256, 88]


def test_corpus_can_grow_by_longer_clips(tmp_path: Path):
    """The same holds for a corpus that is already registered in a cache."""
    short, long = make_clips([5.0] * 300), make_clips([3000.0] * 30, first=300)
    layout = Layout.create(tmp_path / "cache")
    layout.register(build(short, tmp_path / "corpus"))
    grown = build([*short, *long], tmp_path / "corpus")
    check_reads(grown, [*short, *long])
    assert longest_shard_seconds(grown) <= MAX_SECONDS
    layout.register(grown)
    check_reads(layout.corpus("corpus"), [*short, *long])
    assert grown.shard_sizes()[:2] == [256, 44]


def test_cache_accepts_a_corpus_with_another_clips_per_shard_but_the_same_shards(tmp_path: Path):
    """Earlier versions stored the smaller number of clips of long shards as `clips_per_shard`."""
    long = make_clips([600.0] * 60)
    layout = Layout.create(tmp_path / "cache")
    layout.register(build(long, tmp_path / "old" / "corpus", clips_per_shard=24))
    new = build(long, tmp_path / "new" / "corpus")
    assert new.shard_sizes() == [24, 24, 12]
    assert layout.compare(new)[1] == ()
    more = [*long, *make_clips([5.0] * 300, first=60)]
    layout.register(build(more, tmp_path / "new" / "corpus"))
    check_reads(layout.corpus("corpus"), more)
    other = build(long, tmp_path / "other" / "corpus", clips_per_shard=20)
    with pytest.raises(UserError, match="differs from"):
        layout.register(other)
