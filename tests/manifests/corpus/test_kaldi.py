"""Tests for Kaldi's data folders, valid ones and invalid lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests import audio
from manifests.clips import Clip
from manifests.corpus.sources import detect
from manifests.errors import UserError
from manifests.storage import Folder
from tests.manifests.reference_audio import noise


def read_clips(source: Path) -> list[Clip]:
    return list(detect.clips(str(source), Folder("/nowhere")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "one file.wav", noise(1.0, 16000), 16000)
    soundfile.write(tmp_path / "b.flac", noise(0.5, 16000, seed=1), 16000)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"rec1 {tmp_path}/one file.wav\nrec2\t../b.flac\n")
    return folder


def test_utterances_are_segments_of_recordings_with_labels(data: Path):
    (data / "segments").write_text("s1-a rec1 0.1 0.35\ns1-b rec1 0.5 -1\ns2-a rec2 0 0.25\n")
    (data / "text").write_text("s1-a hé  there\ns1-b\n")
    (data / "utt2spk").write_text("s1-a s1\ns1-b s1\ns2-a s2\n")
    (data / "spk2gender").write_text("s1 f\n")
    clips = read_clips(data)
    assert [clip.clip_id for clip in clips] == ["s1-a", "s1-b", "s2-a"]
    assert [clip.text for clip in clips] == ["hé  there", None, None]
    assert [clip.duration for clip in clips] == [0.25, None, 0.25]
    assert clips[0].labels == {"speaker": "s1", "gender": "f"}
    assert clips[2].labels == {"speaker": "s2"}
    first, _ = soundfile.read(data.parent / "one file.wav", dtype="float32")
    second, _ = soundfile.read(data.parent / "b.flac", dtype="float32")
    for clip, expected in zip(clips, (first[1600:5600], first[8000:], second[:4000]), strict=True):
        assert np.array_equal(audio.decode(clip).samples, expected)


def test_recordings_without_segments_are_whole_clips(data: Path):
    clips = read_clips(data)
    assert [clip.clip_id for clip in clips] == ["rec1", "rec2"]
    assert [clip.estimated_duration for clip in clips] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("wav.scp", "r sph2pipe -f wav a.sph |", r"wav\.scp:1: found a command"),
        ("wav.scp", "r raw.ark:1234", "expected an audio file"),
        ("wav.scp", "r none.wav", "there is no none.wav"),
        ("wav.scp", "r", "expected a key and a value"),
        ("segments", "u rec1 0.5", r"segments:1: expected UTTERANCE RECORDING"),
        ("segments", "u rec9 0 1", "rec9 is not in wav.scp"),
        ("segments", "u rec1 0.5 0.2", r"segments:1: clip u: duration must be"),
        ("segments", "u rec1 0 1\nu rec2 0 1", r"segments:2: the key u occurs twice"),
    ],
)
def test_invalid_line_raises_an_error_with_its_number(
    data: Path, file: str, content: str, match: str
):
    (data / file).write_text(content + "\n")
    with pytest.raises(UserError, match=match):
        read_clips(data)
