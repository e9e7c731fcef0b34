"""Tests for durations from headers, missing files, and sources that grow or are reordered."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from pyarrow import fs

from manifests import audio
from manifests.cache.layout import Layout
from manifests.clips import Clip
from manifests.corpus import corpus
from manifests.corpus.sources import detect
from manifests.decoders import probe, ranged
from manifests.errors import AudioError, UserError
from manifests.storage import Folder
from tests.manifests.reference_audio import ffmpeg, write_reference
from tests.manifests.web_folder import serve


def read(source: Path | str) -> list[Clip]:
    return list(detect.clips(str(source), Folder("/nowhere")))


def write_manifest(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_durations_of_remote_files_are_read_by_range_requests(
    tmp_path: Path, s3: fs.FileSystem, monkeypatch: pytest.MonkeyPatch
):
    reference = write_reference(tmp_path / "a.wav", 40.0)
    names = ["a.wav", "a.flac", "a.mp3", "a.opus", "a.m4a"]
    for name in names[1:]:
        ffmpeg("-i", reference, tmp_path / name)
    fetched: list[int] = []
    original = ranged._open_object

    def counting(file: str, part: object) -> ranged._Blocks:
        blocks = original(file, part)  # pyright: ignore[reportArgumentType]
        read = blocks.read
        blocks.read = lambda position, count: fetched.append(count) or read(position, count)
        return blocks

    monkeypatch.setattr(ranged, "_open_object", counting)
    for name in names:
        with s3.open_output_stream(f"data/lengths/{name}") as stored:
            stored.write((tmp_path / name).read_bytes())
    rows = [{"audio_filepath": name} for name in names]
    rows.append({"audio_filepath": "a.wav", "offset": 10.0})
    with s3.open_output_stream("data/lengths/m.jsonl") as stored:
        stored.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    clips = read("s3://data/lengths/m.jsonl")
    assert all(clip.duration is None for clip in clips)
    lengths = [clip.estimated_duration for clip in clips]
    assert lengths == pytest.approx([40.0] * 5 + [30.0], abs=0.1)
    assert sum(fetched) < 0.3 * sum((tmp_path / name).stat().st_size for name in names)
    with serve(tmp_path) as address:
        write_manifest(tmp_path / "web.jsonl", [{"audio_filepath": f"{address}/a.wav"}])
        assert read(tmp_path / "web.jsonl")[0].estimated_duration == 40.0
        write_manifest(tmp_path / "web.jsonl", [{"audio_filepath": f"{address}/none.wav"}])
        assert read(tmp_path / "web.jsonl")[0].estimated_duration is None


def test_manifest_without_any_existing_file_raises_an_error(tmp_path: Path):
    rows = [{"audio_filepath": f"{n}.wav", "duration": 1.0} for n in range(3)]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    with pytest.raises(UserError, match="none of the first 3 audio files exists"):
        read(manifest)
    write_reference(tmp_path / "1.wav", 1.0)
    assert len(read(manifest)) == 3


def test_clips_that_start_beyond_the_end_of_their_file_are_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_reference(tmp_path / "a.wav", 2.0)
    offsets = (("first", 0.0), ("last", 1.5), ("end", 2.0), ("beyond", 99.0))
    rows = [{"audio_filepath": "a.wav", "id": key, "offset": offset} for key, offset in offsets]
    clips = read(write_manifest(tmp_path / "m.jsonl", rows))
    assert [clip.estimated_duration for clip in clips] == [2.0, 0.5, None, None]
    assert "2 clips start at or after the end of their files: end, beyond;" in caplog.text
    caplog.clear()
    stated = [row | {"duration": 0.5} for row in rows]
    clips = read(write_manifest(tmp_path / "m.jsonl", stated))
    assert [clip.duration for clip in clips] == [0.5] * 4
    assert "2 clips start at or after the end of their files: end, beyond;" in caplog.text


def test_folders_are_not_counted_as_missing_files(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_reference(tmp_path / "a.wav", 1.0)
    (tmp_path / "takes").mkdir()
    rows = [{"audio_filepath": name} for name in ("a.wav", "takes", "gone.wav")]
    assert len(read(write_manifest(tmp_path / "m.jsonl", rows))) == 3
    assert "1 of the audio files do not exist, the first: " in caplog.text
    assert "1 of the audio paths are folders, the first: " in caplog.text
    assert caplog.text.count("takes") == 1


def test_missing_files_are_counted_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """One warning covers files with a stated duration and files whose header is read."""
    write_reference(tmp_path / "a.wav", 1.0)
    rows = [{"audio_filepath": "a.wav"}, {"audio_filepath": "b.wav", "duration": 1.0}]
    assert len(read(write_manifest(tmp_path / "m.jsonl", rows))) == 2
    assert "1 of the audio files do not exist, the first: " in caplog.text
    assert "b.wav" in caplog.text
    caplog.clear()
    read(write_manifest(tmp_path / "m.jsonl", [{"audio_filepath": "c.wav"}]))
    assert "c.wav" in caplog.text
    caplog.clear()
    read(write_manifest(tmp_path / "m.jsonl", rows[:1]))
    assert not caplog.text


def test_clips_that_left_the_source_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = []
    for number in range(3):
        write_reference(tmp_path / f"{number}.wav", 0.5 + number / 10)
        rows.append({"audio_filepath": f"{number}.wav"})
    manifest, out = tmp_path / "m.jsonl", tmp_path / "corpus"
    corpus.build(read(write_manifest(manifest, rows)), out)
    corpus.build(read(write_manifest(manifest, rows[1:])), out)
    assert "1 clip of the corpus is not in the source any more" in caplog.text
    caplog.clear()
    write_reference(tmp_path / "3.wav", 2.0)
    corpus.build(read(write_manifest(manifest, [{"audio_filepath": "3.wav"}])), out)
    assert "no clip of the corpus is in the source; it keeps its 3 clips" in caplog.text
    assert "1 new clip follows at its end" in caplog.text
    assert corpus.Corpus(out).num_clips == 4


def test_repaired_file_is_accepted_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A corpus could not grow any more after a truncated file was replaced by the whole one."""
    write_reference(tmp_path / "a.wav", 1.0)
    manifest = write_manifest(tmp_path / "m.jsonl", [{"id": "a", "audio_filepath": "a.wav"}])
    out = tmp_path / "corpus"
    layout = Layout.create(tmp_path / "cache")
    layout.register(corpus.build(read(manifest), out))
    write_reference(tmp_path / "a.wav", 2.0)
    write_reference(tmp_path / "b.wav", 1.0)
    rows = [{"id": name, "audio_filepath": f"{name}.wav", "text": "x"} for name in "ab"]
    write_manifest(manifest, rows)
    with pytest.raises(UserError, match=r"has changed.*pass --accept-changed-files"):
        corpus.build(read(manifest), out)
    grown = corpus.build(read(manifest), out, accept_changed_files=True, update_labels=True)
    expected = [(2.0, "x"), (1.0, "x")]
    assert [(clip.likely_duration, clip.text) for clip in grown.clips()] == expected
    assert "1 clip has a file of another length than before: a;" in caplog.text
    layout.register(grown)
    assert [clip.likely_duration for clip in layout.corpus("corpus").clips()] == [2.0, 1.0]
    again = corpus.build(read(manifest), out)
    assert again.digest == grown.digest, "the option is needed once"
    rows[0]["duration"] = 1.5
    write_manifest(manifest, rows)
    with pytest.raises(UserError, match="give the changed clip a new id, or build into another"):
        corpus.build(read(manifest), out, accept_changed_files=True)


def test_missing_file_with_another_unicode_form_is_explained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Names from macOS look the same and are not; the message used to show the very same name."""
    on_disk, in_manifest = (unicodedata.normalize(f, "Übung é.wav") for f in ("NFD", "NFC"))
    write_reference(tmp_path / on_disk, 1.0)
    rows = [{"audio_filepath": in_manifest}, {"audio_filepath": "gone.wav"}]
    hint = "there is a file of this name in the Unicode form NFD"
    with pytest.raises(UserError, match=hint):
        list(read(write_manifest(tmp_path / "m.jsonl", rows)))
    for name in ("a", "b", "c"):
        write_reference(tmp_path / f"{name}.wav", 1.0)
        rows.append({"audio_filepath": f"{name}.wav"})
    (clip, *_) = read(write_manifest(tmp_path / "m.jsonl", rows))
    assert hint in caplog.text
    with pytest.raises(AudioError, match=hint):
        audio.decode(clip)


def test_mended_file_without_a_length_gets_one(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Its length used to stay unknown for ever, in statistics, plans and training."""
    for content in (b"", b"this is text"):
        (tmp_path / "a.wav").write_bytes(content)
        manifest = write_manifest(tmp_path / "m.jsonl", [{"id": "a", "audio_filepath": "a.wav"}])
        out = tmp_path / f"corpus-{len(content)}"
        assert [c.likely_duration for c in corpus.build(read(manifest), out).clips()] == [None]
        write_reference(tmp_path / "a.wav", 2.0)
        assert [c.likely_duration for c in corpus.build(read(manifest), out).clips()] == [2.0]
        assert "another length" not in caplog.text
        write_reference(tmp_path / "a.wav", 3.0)
        with pytest.raises(UserError, match="has changed"):
            corpus.build(read(manifest), out)


def test_reordered_source_is_reported_and_a_grown_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    rows = []
    for number in range(4):
        write_reference(tmp_path / f"{number}.wav", 0.5 + number / 10)
        rows.append({"audio_filepath": f"{number}.wav"})
    manifest = tmp_path / "m.jsonl"
    out = tmp_path / "corpus"
    corpus.build(read(write_manifest(manifest, rows[:3])), out)
    corpus.build(read(write_manifest(manifest, rows)), out)
    assert "reordered" not in caplog.text
    before = [clip.clip_id for clip in corpus.Corpus(out).clips()]
    again = corpus.build(read(write_manifest(manifest, rows[::-1])), out)
    assert "the source was reordered" in caplog.text
    assert [clip.clip_id for clip in again.clips()] == before


def test_truncated_mp3_prints_nothing_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """libsndfile's decoder used to write to stderr directly, without the name of the file."""
    reference = write_reference(tmp_path / "reference.wav")
    whole = tmp_path / "whole.mp3"
    ffmpeg("-i", reference, "-ar", "22050", "-ac", "1", whole)
    cut = tmp_path / "cut.mp3"
    cut.write_bytes(whole.read_bytes()[:3000])
    assert probe.estimate_seconds(str(cut))
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
