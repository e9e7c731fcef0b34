"""`coat-cache show` finds a clip by columns of ids, in one corpus or in all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.cache.reader import CacheReader
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from pipeline.inspect.show import find_clip
from tests.manifests.frames import make_cache


def test_a_clip_is_found_without_reading_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_cache(tmp_path)
    monkeypatch.delattr(Corpus, "clips")  # what it went through, clip by clip
    reader = CacheReader(tmp_path / "cache")
    for number in (0, 5, 12, 19):
        assert find_clip(reader, f"clip{number:02d}").uri == f"/audio/{number}.wav"
    with pytest.raises(UserError, match="no corpus of the cache has a clip 'clip99'"):
        find_clip(reader, "clip99")


def test_another_corpus_is_not_looked_in(tmp_path: Path):
    make_cache(tmp_path)
    with pytest.raises(UserError, match="has no corpus 'other'; it has corpus"):
        CacheReader(tmp_path / "cache", corpora=["other"])
