"""Tests for cutting long recordings into clips in pauses, with the text of timed words."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests import audio, cli
from manifests.clips import Clip
from manifests.corpus import corpus as corpora
from manifests.corpus.segment import segment
from manifests.corpus.source_index import SourceIndex
from manifests.corpus.sources import detect
from manifests.errors import UserError
from manifests.storage import Folder
from tests.manifests.reference_audio import noise

RATE = 16_000
PAUSES = ((8.0, 8.6), (17.2, 17.8), (26.0, 26.5), (34.1, 34.9))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty seconds of noise with four quiet pauses."""
    wave = noise(40.0, RATE)
    for start, end in PAUSES:
        wave[round(start * RATE) : round(end * RATE)] *= 0.01
    path = tmp_path_factory.mktemp("segment") / "long.flac"
    soundfile.write(path, wave, RATE)
    return path


def words() -> list[list[object]]:
    return [[f"w{n}", n + 0.2, n + 0.8] for n in range(40) if n not in (8, 17, 26, 34)]


def test_segments_are_cut_in_pauses_and_cover_the_recording(recording: Path):
    whole = Clip(clip_id="long", uri=str(recording), text="all of it", labels={"speaker": "x"})
    parts = list(segment(iter([whole]), SourceIndex(), max_seconds=10.0, by="silence"))
    inner = [part.offset for part in parts[1:]]
    assert len(inner) == len(PAUSES)
    for place, (start, end) in zip(inner, PAUSES, strict=True):
        assert start <= place <= end
    assert all(part.duration is not None and part.duration <= 10.0 for part in parts)
    samples = np.concatenate([audio.decode(part).samples for part in parts])
    assert np.array_equal(samples, audio.decode(whole).samples)
    assert all(part.text is None for part in parts)
    assert parts[0].labels == {"speaker": "x", "segment_of": "long"}
    assert [part.clip_id for part in parts] == [f"long#{n:04d}" for n in range(5)]


@pytest.mark.parametrize("by", ["silence", "fixed"])
def test_segments_contain_the_text_of_their_words(recording: Path, by: str):
    whole = Clip(
        clip_id="long", uri=str(recording), offset=2.0, duration=36.0,
        labels={"words": [[w, a - 2, b - 2] for w, a, b in words() if 2 < a < 37]},  # type: ignore[operator]
    )  # fmt: skip
    parts = list(segment(iter([whole]), SourceIndex(), max_seconds=9.0, by=by))  # type: ignore[arg-type]
    spoken = " ".join(part.text or "" for part in parts).split()
    assert spoken == [word[0] for word in whole.labels["words"]]
    for part in parts:
        assert part.duration is not None
        for _, start, end in part.labels["words"]:
            assert -0.5 < start < end < part.duration + 0.5
    if by == "fixed":
        assert [part.offset for part in parts] == [2.0, 11.0, 20.0, 29.0]


def test_words_behind_the_end_of_a_clip_are_not_assigned_to_its_parts(
    recording: Path, caplog: pytest.LogCaptureFixture
):
    """Their times count from the start of the file, so they would go to the wrong parts."""
    whole = Clip(
        clip_id="part", uri=str(recording), offset=20.0, duration=18.0, text="one two",
        labels={"words": [["one", 21.0, 21.5], ["two", 30.0, 30.5]]},
    )  # fmt: skip
    parts = list(segment(iter([whole]), SourceIndex(), max_seconds=9.0, by="fixed"))
    assert [part.text for part in parts] == [None, None]
    assert "clip part ends at 18.00 s, but has a word that ends at 30.50 s" in caplog.text


def test_short_and_unreadable_clips_are_kept(
    recording: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """One unreadable file used to stop the cutting of all others."""
    short = Clip(clip_id="short", uri=str(recording), duration=5.0, text="kept")
    assert list(segment(iter([short]), SourceIndex(), max_seconds=10.0, by="silence")) == [short]
    (tmp_path / "text.wav").write_text("no audio")
    bad = [
        Clip(clip_id="gone", uri="/nowhere/x.wav"),
        Clip(clip_id="text", uri=f"{tmp_path}/text.wav"),
    ]
    parts = segment(iter([*bad, short]), SourceIndex(), max_seconds=10.0, by="silence")
    assert list(parts) == [*bad, short]
    assert "clip gone cannot be read and is kept whole: " in caplog.text
    assert "2 clips cannot be read and are kept whole: gone, text" in caplog.text
    bad = Clip(clip_id="bad", uri=str(recording), duration=40.0, labels={"words": ["x"]})
    with pytest.raises(UserError, match=r"expected \[word, start, end\]"):
        list(segment(iter([bad]), SourceIndex(), max_seconds=10.0, by="fixed"))


def test_segment_command_writes_a_corpus(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    corpora.build([Clip(clip_id="long", uri=str(recording), duration=40.0)], tmp_path / "long")
    command = f"segment {tmp_path}/long --out {tmp_path}/short --max-seconds 15"
    monkeypatch.setattr(sys, "argv", ["coat-corpus", *command.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    made = corpora.Corpus(tmp_path / "short")
    assert made.num_clips >= 3
    assert {clip.uri for clip in made.clips()} == {str(recording)}


def test_word_times_of_lhotse_cuts_are_segmented_with_the_audio(recording: Path, tmp_path: Path):
    import lhotse
    from lhotse.supervision import AlignmentItem

    items = [AlignmentItem(f"w{n}", 1.0 * n, 0.5) for n in range(24)]
    supervision = lhotse.SupervisionSegment(
        "s", "r", 0.0, 24.0, text=" ".join(item.symbol for item in items), speaker="anna"
    ).with_alignment("word", items)
    whole = lhotse.Recording.from_file(recording, recording_id="r").to_cut()
    whole.supervisions = [supervision]
    later = whole.truncate(offset=4.0, duration=18.0)  # lhotse does not move the word times.
    lhotse.CutSet.from_cuts([later]).to_file(tmp_path / "cuts.jsonl")
    (clip,) = detect.clips(str(tmp_path / "cuts.jsonl"), Folder(tmp_path))
    assert clip.labels["words"][0] == ["w4", 0.0, 0.5]
    assert clip.text == " ".join(f"w{n}" for n in range(4, 22))
    parts = list(segment(iter([clip]), SourceIndex(), max_seconds=9.0, by="fixed"))
    assert [part.text for part in parts] == [
        " ".join(f"w{n}" for n in range(first, first + 9)) for first in (4, 13)
    ]
    assert parts[1].labels["words"][0] == ["w13", 0.0, 0.5]
    assert parts[1].labels["speaker"] == "anna"
