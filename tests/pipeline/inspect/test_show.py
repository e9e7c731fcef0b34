"""Tests for `coat-cache show`: looking up a clip, and the statistics of its streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.errors import UserError
from manifests.page.teacher_tracks import teacher_tracks
from manifests.streams.transcript import Confidence, Transcript, Word
from pipeline.inspect.show import build_table, describe, find_clip, picture_path
from tests.manifests.frames import make_cache
from tests.pipeline import report_cache


def test_find_clip_does_not_read_other_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_cache(tmp_path)
    monkeypatch.delattr(Corpus, "clips")  # the lookup must not iterate over clips
    reader = CacheReader(tmp_path / "cache")
    for number in (0, 5, 12, 19):
        assert find_clip(reader, f"clip{number:02d}").uri == f"/audio/{number}.wav"
    with pytest.raises(UserError, match="the cache has no clip 'clip99' in corpus corpus; "):
        find_clip(reader, "clip99")


def test_clip_is_found_by_the_name_of_its_file(tmp_path: Path):
    """Ids of folders are hashes, which nobody can derive."""
    parts = [
        Clip(clip_id=f"part{n}", uri="/audio/Straße 20.flac", offset=float(n), duration=1.0)
        for n in range(3)
    ]
    whole = Clip(clip_id="5ec1", uri="/audio/Straße 19.wav")
    layout = Layout.create(tmp_path / "cache")
    layout.register(build([*parts, whole], tmp_path / "corpus"))
    reader = CacheReader(tmp_path / "cache")
    for name in ("5ec1", "Straße 19", "Straße 19.wav", "/audio/Straße 19.wav"):
        assert find_clip(reader, name) == whole
    with pytest.raises(UserError, match=r"of several clips; .* part0, part1, part2"):
        find_clip(reader, "Straße 20")
    with pytest.raises(UserError, match="the cache has no clip 'Straße'"):
        find_clip(reader, "Straße")


def test_unknown_corpus_raises_an_error(tmp_path: Path):
    make_cache(tmp_path)
    with pytest.raises(UserError, match="has no corpus 'other'; it has corpus"):
        CacheReader(tmp_path / "cache", corpora=["other"])


def test_f0_statistics_cover_voiced_frames_only(tmp_path: Path):
    """A mean over both columns or over unvoiced frames has no meaning."""
    reader = CacheReader(report_cache.make_cache(tmp_path, count=8))
    f0 = describe(reader, find_clip(reader, "clip000"))["teachers"]["pitch"]["streams"]["f0"]
    assert (f0["min"], f0["mean"], f0["max"]) == (220.0, 220.0, 220.0)
    silent = describe(reader, find_clip(reader, "clip001"))
    f0 = silent["teachers"]["pitch"]["streams"]["f0"]
    assert (f0["min"], f0["mean"], f0["max"]) == (None, None, None)
    assert build_table(silent).row_count


def test_words_of_a_teacher_are_shown_with_the_reason_to_doubt_them():
    confidence = {
        "no_speech_probability": 0.1, "average_log_probability": -1.83, "compression_ratio": 0.7
    }  # fmt: skip
    metadata = {"text": "the [entire] time.", "language": "en", "confidence": confidence}
    facts = {
        "clip_id": "fr-1", "uri": "/a.wav", "text": "Le train part.", "labels": {"language": "fr"},
        "teachers": {"asr": {"metadata": metadata, "streams": {}}, "pitch": {"absent": "not run"}},
    }  # fmt: skip
    title = str(build_table(facts).title)
    assert title.splitlines()[-1] == (
        "asr wrote: the [entire] time. (doubtful: unlikely words, -1.83 nats a token)"
    )
    confidence["average_log_probability"] = -0.2
    assert str(build_table(facts).title).endswith("(doubtful: labelled fr, written as en)")
    facts["labels"] = {"language": "en-GB"}
    assert str(build_table(facts).title).endswith("asr wrote: the [entire] time.")


def test_track_of_doubtful_words_says_so():
    """Pictures and reports draw the words from this track."""
    (asr,) = (spec for spec in report_cache.TEACHERS if spec.name == "asr")
    asr = replace(asr, streams=())
    words = (Word("entire", 0.5, 1.0), Word("time", 1.0, 9.0))
    confidence = Confidence(
        no_speech_probability=0.1, average_log_probability=-1.83, compression_ratio=0.7
    )
    transcript = Transcript(text="entire time", language="en", words=words, confidence=confidence)
    (track,) = teacher_tracks(asr, transcript, {}, {}, seconds=2.0)
    assert track.title == "words (doubtful)"
    confidence = replace(confidence, average_log_probability=-0.2)
    likely = replace(transcript, confidence=confidence)
    (track,) = teacher_tracks(asr, likely, {}, {}, seconds=2.0)
    assert track.title == "words"


def test_picture_is_a_supported_file_or_lies_in_a_folder(tmp_path: Path):
    """matplotlib appended .png to a folder's name, and raised an error for other extensions."""
    assert picture_path("a/b.1", str(tmp_path)) == tmp_path / "a_b.1.png"
    assert picture_path("a/b.1", None).name == "a_b.1.png"
    for name in ("x.png", "x.SVG", "x.pdf"):
        assert picture_path("a", str(tmp_path / name)) == tmp_path / name
    for name in ("x", "x.txt", "x.1"):
        with pytest.raises(UserError, match=r"expected a folder, or a file .* \.png, \.pdf, \.svg"):
            picture_path("a", str(tmp_path / name))
