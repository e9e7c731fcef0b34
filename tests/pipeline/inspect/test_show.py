"""`coat-cache show` finds a clip by columns of ids, in one corpus or in all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.cache.reader import CacheReader
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from pipeline.inspect.show import build_table, describe, find_clip
from tests.manifests.frames import make_cache
from tests.pipeline import report_cache


def test_a_clip_is_looked_up_without_reading_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_cache(tmp_path)
    monkeypatch.delattr(Corpus, "clips")  # what it went through, clip by clip
    reader = CacheReader(tmp_path / "cache")
    for number in (0, 5, 12, 19):
        assert find_clip(reader, f"clip{number:02d}").uri == f"/audio/{number}.wav"
    with pytest.raises(UserError, match="no corpus of the cache has a clip 'clip99'"):
        find_clip(reader, "clip99")


def test_another_corpus_is_not_searched(tmp_path: Path):
    make_cache(tmp_path)
    with pytest.raises(UserError, match="has no corpus 'other'; it has corpus"):
        CacheReader(tmp_path / "cache", corpora=["other"])


def test_the_mean_of_f0_is_a_frequency_of_voiced_frames(tmp_path: Path):
    """The mean over both columns and over unvoiced frames was meaningless."""
    reader = CacheReader(report_cache.make_cache(tmp_path, count=8))
    f0 = describe(reader, find_clip(reader, "clip000"))["teachers"]["pitch"]["streams"]["f0"]
    assert (f0["min"], f0["mean"], f0["max"]) == (220.0, 220.0, 220.0)
    silent = describe(reader, find_clip(reader, "clip001"))
    f0 = silent["teachers"]["pitch"]["streams"]["f0"]
    assert (f0["min"], f0["mean"], f0["max"]) == (None, None, None)
    assert build_table(silent).row_count
