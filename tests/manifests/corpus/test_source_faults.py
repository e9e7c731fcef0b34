"""Tests for faults of sources that public bug reports describe: durations, links, names, labels."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from manifests import audio
from manifests.clips import Clip, stable_id, to_table
from manifests.corpus.corpus import Corpus, build
from manifests.corpus.sources import detect
from manifests.corpus.stats import collect
from manifests.errors import UserError
from manifests.storage import Folder
from tests.manifests.reference_audio import ffmpeg, noise, write_reference


def read(source: Path | str, stored: Path = Path("/nowhere")) -> list[Clip]:
    return list(detect.clips(str(source), Folder(stored)))


def write_lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_duration_in_a_header_does_not_truncate_a_clip(tmp_path: Path):
    folder = tmp_path / "audio"
    folder.mkdir()
    reference = write_reference(tmp_path / "reference.wav")
    ffmpeg("-i", reference, "-q:a", "6", "-f", "mp3", "-", stdout=folder / "vbr.mp3")
    ffmpeg("-i", reference, "-f", "flac", "-", stdout=folder / "piped.flac")
    corpus = build(read(folder), tmp_path / "corpus")
    assert [audio.decode(clip).seconds for clip in corpus.clips()] == pytest.approx(
        [6.0, 6.08], abs=0.05
    )
    assert corpus.seconds < 60  # and not the 2^63 samples of a FLAC stream of unknown length
    stats = collect(corpus.tables())
    assert stats.estimated_durations + stats.unknown_durations == 2


def test_corpus_of_format_1_opens_and_grows(tmp_path: Path):
    """Format 1 stored a header's duration as a stated one, which truncated the clip."""
    folder = tmp_path / "audio"
    folder.mkdir()
    path = write_reference(folder / "a.wav")
    old = Clip(clip_id=stable_id(str(path), 0.0, None), uri=str(path), duration=6.0)
    stated = Clip(clip_id="cut", uri=str(path), duration=2.0)
    corpus = build([old, stated], tmp_path / "corpus")
    part = tmp_path / "corpus" / corpus.parts[0].file
    pq.write_table(to_table([old, stated]).drop_columns("estimated_duration"), part)
    index = json.loads((tmp_path / "corpus" / "corpus.json").read_text())
    index["format"] = 1
    index["parts"][0]["bytes"] = part.stat().st_size
    (tmp_path / "corpus" / "corpus.json").write_text(json.dumps(index))

    first, second = Corpus(tmp_path / "corpus").clips()
    assert first == replace(old, duration=None, estimated_duration=6.0)
    assert second == stated
    write_reference(folder / "b.wav", 1.0)
    grown = build([*read(folder), stated], tmp_path / "corpus")
    assert [clip.likely_duration for clip in grown.clips()] == [6.0, 2.0, 1.0]
    soundfile.write(path, noise(3.0), 16_000)
    with pytest.raises(UserError, match="has changed"):
        build([*read(folder), stated], tmp_path / "corpus")


def test_bytes_in_parquet_take_precedence_over_the_path(tmp_path: Path):
    recording = write_reference(tmp_path / "recording.wav")
    stored = []
    for position in range(3):
        file = tmp_path / "piece.wav"
        soundfile.write(file, noise()[position * 16_000 : (position + 1) * 16_000], 16_000)
        stored.append({"bytes": file.read_bytes(), "path": str(recording)})
    (tmp_path / "set").mkdir()
    column = pa.array(stored, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"audio": column}), tmp_path / "set" / "train.parquet")
    clips = read(tmp_path / "set", tmp_path / "stored")
    assert [audio.decode(clip).seconds for clip in clips] == [1.0, 1.0, 1.0]
    assert len({clip.clip_id for clip in clips}) == 3


def make_window(start: float, supervision: dict) -> dict:
    source = {"type": "file", "channels": [0], "source": "a.wav"}
    recording = {"id": "r", "sources": [source]}
    cut = {"id": f"w{start}", "type": "MonoCut", "start": start, "duration": 2.0, "channel": 0}
    return cut | {"supervisions": [supervision], "recording": recording}


def test_labels_of_a_cut_are_limited_to_its_audio(tmp_path: Path):
    words = ["one", "two", "three", "four", "five", "six"]
    supervision = {
        "id": "s",
        "start": 0.0,
        "duration": 3.0,
        "text": " ".join(words),
        "speaker": "anna",
    }
    times = [[word, 0.5 * position, 0.5, 1.0] for position, word in enumerate(words)]
    later = [[word, start - 2.0, length, score] for word, start, length, score in times]
    plain, rest, first, second, outside = read(
        write_lines(
            tmp_path / "windows.jsonl",
            make_window(0.0, supervision),
            make_window(2.0, supervision | {"start": -2.0}),
            make_window(0.1, supervision | {"alignment": {"word": times}}),
            make_window(2.1, supervision | {"start": -2.0, "alignment": {"word": later}}),
            make_window(5.0, supervision | {"start": -4.0}),
        )
    )
    assert plain.text is rest.text is outside.text is None
    assert plain.labels == rest.labels == {"speaker": "anna"}
    assert outside.labels == {}
    assert first.text == "one two three four"
    assert second.text == "five six"
    assert second.labels["words"] == [["five", 0.0, 0.5], ["six", 0.5, 1.0]]


def test_cyclic_links_are_followed_once(tmp_path: Path):
    folder = tmp_path / "audio"
    (folder / "a").mkdir(parents=True)
    write_reference(folder / "a" / "x.wav", 1.0)
    (folder / "a" / "up").symlink_to("..")
    (folder / "b").symlink_to("a")
    assert [Path(clip.uri).name for clip in read(folder)] == ["x.wav"]


def test_folder_contains_all_extensions_that_can_be_decoded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    reference = write_reference(tmp_path / "reference.wav", 1.0)
    folder = tmp_path / "audio"
    folder.mkdir()
    for name in ("a.wav", "b.wave", "e.mpga"):
        kind = ["-f", "mp3"] if name == "e.mpga" else ["-f", "wav"]
        ffmpeg("-i", reference, *kind, folder / name)
    for name in ("c.mkv", "d.mov"):
        ffmpeg("-i", reference, folder / name)
    for name in ("notes.docx", "more.docx", "picture.jpg", "LICENSE"):
        (folder / name).write_text("x")
    with caplog.at_level(logging.WARNING):
        clips = read(folder)
    assert [Path(clip.uri).suffix for clip in clips] == [".wav", ".wave", ".mkv", ".mov", ".mpga"]
    for clip in clips:
        assert audio.decode(clip).seconds == pytest.approx(1.0, abs=0.1)
        assert clip.estimated_duration == pytest.approx(1.0, abs=0.2)
    assert "skipped 2 .docx, 1 without an extension, 1 .jpg" in caplog.text


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_audio_folder_metadata_gives_texts_and_labels(tmp_path: Path, name: str, prefix: str):
    (tmp_path / "sub").mkdir()
    write_reference(tmp_path / "a.wav", 1.0)
    write_reference(tmp_path / "sub" / "b.wav", 1.0)
    rows = [
        {"file_name": "a.wav", "transcription": "hello, there", "speaker": "anna"},
        {"file_name": "sub/b.wav", "transcription": "good bye", "speaker": "ben"},
    ]
    if name.endswith(".csv"):
        table = "file_name,transcription,speaker\n"
        table += 'a.wav,"hello, there",anna\nsub/b.wav,good bye,ben\n'
        (tmp_path / name).write_text(table)
    else:
        write_lines(tmp_path / name, *rows)
    clips = read(f"{prefix}{tmp_path}")
    assert [clip.text for clip in clips] == ["hello, there", "good bye"]
    assert [clip.labels for clip in clips] == [{"speaker": "anna"}, {"speaker": "ben"}]
    (tmp_path / name).write_text("path,text\na.wav,x\n" if name.endswith(".csv") else '{"a": 1}\n')
    with pytest.raises(UserError, match=r"expected file_name .*found the keys"):
        read(tmp_path)
    (tmp_path / name).write_text(
        "file_name,text\n,x\n" if name.endswith(".csv") else '{"file_name": null, "text": "x"}\n'
    )
    with pytest.raises(UserError, match=r"expected file_name .*found ''"):
        read(tmp_path)


def test_rows_of_a_table_without_a_file_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_reference(tmp_path / "a.wav", 1.0)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,x\nb.wav,y\nc.wav,z\n")
    assert len(read(tmp_path)) == 1
    assert "2 rows of its tables name no audio file that is there, the first: " in caplog.text
    assert "b.wav" in caplog.text


def test_field_named_recording_is_a_label(tmp_path: Path):
    row = {"audio_filepath": "a.wav", "recording": "session 4", "type": "DirectorsCut"}
    (clip,) = read(write_lines(tmp_path / "m.jsonl", row))
    assert clip.labels == {"recording": "session 4", "type": "DirectorsCut"}


@pytest.mark.parametrize("key", ["duration", "offset"])
@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e400", "1e300", "-1" + "0" * 400])
def test_out_of_range_number_raises_a_one_line_error(tmp_path: Path, key: str, number: str):
    (tmp_path / "m.jsonl").write_text(f'{{"audio_filepath": "a.wav", "{key}": {number}}}\n')
    with pytest.raises(UserError, match=r"m\.jsonl:1: ") as caught:
        read(tmp_path / "m.jsonl")
    assert "\n" not in str(caught.value)


def test_unpaired_surrogate_raises_an_error_with_its_line(tmp_path: Path):
    (tmp_path / "m.jsonl").write_text(
        '{"audio_filepath": "a.wav", "text": "\\ud83d\\ude00 \\\\ud83d"}\n'
        '{"audio_filepath": "b.wav", "text": "x \\ud83d"}\n'
    )
    with pytest.raises(UserError, match=r"m\.jsonl:2: .*half a character"):
        read(tmp_path / "m.jsonl")


def test_estimated_duration_does_not_truncate_a_clip(tmp_path: Path):
    """A stated duration truncates a clip, an estimated one does not."""
    path = write_reference(tmp_path / "a.wav", 2.0)
    guess = Clip(clip_id="a", uri=str(path), estimated_duration=1.0)
    bound = Clip(clip_id="b", uri=str(path), duration=1.0)
    corpus = build([guess, bound], tmp_path / "corpus")
    assert [audio.decode(clip).seconds for clip in corpus.clips()] == [2.0, 1.0]
    assert np.isclose(corpus.seconds, 2.0)


def test_pipes_folders_and_broken_links_named_like_audio_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_reference(tmp_path / "a.wav")
    os.mkfifo(tmp_path / "b.wav")
    (tmp_path / "c.wav").mkdir()
    (tmp_path / "d.wav").symlink_to(tmp_path / "gone.wav")
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path)) == 1
    assert "skipped 2 pipes, devices or broken links, 1 folders named like audio" in caplog.text


def test_audio_file_as_manifest_raises_an_error(tmp_path: Path) -> None:
    write_reference(tmp_path / "a.wav")
    with pytest.raises(UserError, match=r"a.wav is not UTF-8 text; expected a JSON-lines manifest"):
        read(tmp_path / "a.wav")
