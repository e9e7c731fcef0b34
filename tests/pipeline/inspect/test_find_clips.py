"""Tests that clips are looked up with one read for each part of the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.storage import Folder
from pipeline.inspect.find_clips import find_clips


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Twelve clips in three parts of two shards each."""
    clips = [Clip(clip_id=f"clip{place:02d}", uri=f"/{place}.wav") for place in range(12)]
    for count in (4, 8, 12):
        corpus = build(clips[:count], tmp_path / "corpus", clips_per_shard=2)
    return corpus


def test_find_clips_returns_clips_in_corpus_order(corpus: Corpus):
    ids = ["clip11", "clip02", "clip03", "clip04"]
    result = list(find_clips(corpus, [5, 1, 2], ids))
    assert result == [clip for clip in corpus.clips() if clip.clip_id in ids]
    assert list(find_clips(corpus, [0], ["clip11"])) == []
    assert list(find_clips(corpus, [], [])) == []


def test_find_clips_opens_every_part_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    original = Folder.open

    def count(self: Folder, name: str, **options: bool) -> object:
        opened.append(name)
        return original(self, name, **options)

    monkeypatch.setattr(Folder, "open", count)
    ids = [f"clip{place:02d}" for place in range(0, 12, 2)]
    assert [clip.clip_id for clip in find_clips(corpus, range(6), ids)] == ids
    assert sorted(opened) == [part.file for part in corpus.parts]
