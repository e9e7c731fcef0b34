"""Tests corpora and caches of tars that were written again, so that their members moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manifests import audio
from manifests.cache.layout import Layout
from manifests.clips import Clip
from manifests.corpus import corpus
from manifests.corpus.corpus import Corpus
from manifests.corpus.sources import detect
from manifests.errors import AudioError, UserError
from manifests.storage import Folder
from tests.manifests.corpus.test_tars import flac, write_tar


def write(folder: Path, *, text: str = "short", last: bytes | None = None) -> Path:
    """Writes three clips; a longer text of the first one moves the others."""
    write_tar(
        folder / "a.tar",
        ("0.flac", flac(0)), ("0.txt", text.encode()),
        ("1.flac", flac(1)), ("2.flac", last or flac(2)),
    )  # fmt: skip
    return folder


def build(folder: Path, **options: bool) -> Corpus:
    clips = detect.clips(str(folder), Folder("/nowhere"))
    return corpus.build(clips, folder.parent / "corpus", **options)


def samples(clips: list[Clip]) -> list[np.ndarray]:
    return [audio.decode(clip).samples for clip in clips]


def test_clips_of_a_tar_that_was_written_again_raise_moved(tmp_path: Path):
    """The bytes at the old place may even be those of another clip."""
    first, *moved = build(write(tmp_path / "tars")).clips()
    write(tmp_path / "tars", text="long " * 200)
    assert len(audio.decode(first).samples)
    for clip in moved:
        with pytest.raises(AudioError, match=r"written again after .* build the corpus again") as e:
            audio.decode(clip)
        assert e.value.reason == "moved"


def test_corpus_and_cache_take_the_new_places_of_moved_members(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    before = build(write(tmp_path / "tars"))
    expected = samples(list(before.clips()))
    layout = Layout.create(tmp_path / "cache")
    layout.register(before)
    write(tmp_path / "tars", text="long " * 200)
    after = build(tmp_path / "tars", update_labels=True)
    assert "2 clips have another place than before" in caplog.text
    clips = list(after.clips())
    assert [clip.clip_id for clip in clips] == ["0", "1", "2"]
    assert clips[0].text == ("long " * 200).strip()
    for wave, same in zip(samples(clips), expected, strict=True):
        assert np.array_equal(wave, same)
    layout.register(after)
    assert list(layout.corpus("corpus").clips()) == clips


def test_replaced_member_of_a_tar_is_taken_only_if_allowed(tmp_path: Path):
    build(write(tmp_path / "tars"))
    write(tmp_path / "tars", last=flac(5, seconds=0.4))
    with pytest.raises(UserError, match=r"'2' has changed.*--accept-changed-files"):
        build(tmp_path / "tars")
    clips = list(build(tmp_path / "tars", accept_changed_files=True).clips())
    assert [len(wave) for wave in samples(clips)] == [1600, 1600, 6400]
