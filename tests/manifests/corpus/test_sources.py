"""Tests for each kind of source on small real files of its format, and for its errors."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from manifests.clips import Clip, stable_id
from manifests.corpus.sources import detect
from manifests.errors import UserError
from manifests.storage import Folder


def read(source: Path | str, audio: Path = Path("/nowhere")) -> list[Clip]:
    return list(detect.clips(str(source), Folder(audio)))


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_tone(path: Path, seconds: float, rate: int = 16000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.sin(np.arange(round(seconds * rate)) * 0.1)
    soundfile.write(path, wave, rate)
    return path


# JSON lines


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("name", ["m.jsonl", "m.json", "m.jsonl.gz"])
def test_json_lines_rows_become_clips(tmp_path: Path, name: str) -> None:
    manifest = write_lines(
        tmp_path / name,
        {"audio_filepath": "a/ü 語.flac", "duration": 3, "text": "hé", "lang": "fr", "n": [1]},
        {"audio_filepath": "/abs/b.wav", "offset": 1.5, "duration": None, "utt_id": "b-1"},
        {"audio_filepath": "s3://bucket/c d.wav", "id": 7, "labels": {"lang": "en"}, "lang": "x"},
        {"audio_filepath": "../up.wav", "offset": None, "text": None},
    )
    first, second, third, fourth = read(manifest)
    assert first == Clip(
        clip_id=stable_id(f"{tmp_path}/a/ü 語.flac", 0.0, 3.0),
        uri=f"{tmp_path}/a/ü 語.flac",
        duration=3.0,
        text="hé",
        labels={"lang": "fr", "n": [1]},
    )
    assert second == Clip(clip_id="b-1", uri="/abs/b.wav", offset=1.5)
    assert third == Clip(clip_id="7", uri="s3://bucket/c d.wav", labels={"lang": "en"})
    assert (fourth.uri, fourth.text) == (f"{tmp_path.parent}/up.wav", None)


def test_clip_id_does_not_depend_on_integer_or_float_notation(tmp_path: Path) -> None:
    whole, real = read(
        write_lines(
            tmp_path / "m.jsonl",
            {"audio_filepath": "a.wav", "offset": 0, "duration": 2},
            {"audio_filepath": "a.wav", "duration": 2.0},
        )
    )
    assert whole == real


def test_blank_lines_and_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_bytes(
        b'\xef\xbb\xbf{"audio_filepath": "a.wav"}\r\n\n{"audio_filepath": "b.wav"}'
    )
    write_tone(tmp_path / "a.wav", 0.1)
    assert [clip.uri for clip in read(manifest)] == [f"{tmp_path}/a.wav", f"{tmp_path}/b.wav"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"audio_filepath": "b.wav",', "not a JSON object"),
        (b'["b.wav"]', "a JSON list"),
        (b'{"audio_filepath": "\xff.wav"}', "not a JSON object"),
        (b'{"path": "b.wav", "x": 1}', "found the keys path, x"),
        (b'{"audio_filepath": 3}', "audio_filepath with a path, found 3"),
        (b'{"audio_filepath": "b.wav", "duration": "3 s"}', "duration must be a number of seconds"),
        (b'{"audio_filepath": "b.wav", "duration": true}', "duration must be a number of seconds"),
        (b'{"audio_filepath": "b.wav", "duration": 0}', "duration must be > 0"),
        (b'{"audio_filepath": "b.wav", "duration": NaN}', "duration must be > 0"),
        (b'{"audio_filepath": "b.wav", "offset": -1}', "offset must be >= 0"),
        (b'{"audio_filepath": "b.wav", "text": ["b"]}', "text must be a string"),
        (b'{"audio_filepath": "b.wav", "labels": 5}', "labels must be an object"),
    ],
)
def test_invalid_line_raises_a_one_line_error_with_its_number(
    tmp_path: Path, line: bytes, message: str
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_bytes(b'{"audio_filepath": "a.wav"}\n\n' + line + b"\n")
    with pytest.raises(UserError) as error:
        read(manifest)
    assert str(error.value).startswith(f"{manifest}:3: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_gzip_raises_an_error(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.1)
    rows = [{"audio_filepath": "a.wav", "id": os.urandom(20).hex()} for _ in range(2000)]
    manifest = write_lines(tmp_path / "m.jsonl.gz", *rows)
    manifest.write_bytes(manifest.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"m\.jsonl\.gz:\d+: cannot be read"):
        read(manifest)


# Folders of audio


def test_folder_lists_audio_files_with_texts_and_durations(tmp_path: Path) -> None:
    write_tone(tmp_path / "b.wav", 0.5)
    write_tone(tmp_path / "sub" / "ünï 語.FLAC", 0.25, rate=8000)
    write_tone(tmp_path / "a.ogg", 1.0)
    write_tone(tmp_path / ".hidden" / "x.wav", 1.0)
    write_tone(tmp_path / "._b.wav", 1.0)
    (tmp_path / "b.txt").write_text(" two words\n")
    (tmp_path / "notes.txt").write_text("nobody said this")
    (tmp_path / "broken.mp3").write_text("not audio: decoding will say so")
    clips = read(tmp_path)
    assert [Path(clip.uri).name for clip in clips] == [
        "a.ogg",
        "b.wav",
        "broken.mp3",
        "ünï 語.FLAC",
    ]
    assert [clip.estimated_duration for clip in clips] == [pytest.approx(1.0), 0.5, None, 0.25]
    assert [clip.duration for clip in clips] == [None] * 4
    assert [clip.text for clip in clips] == [None, "two words", None, None]
    assert clips[1].clip_id == stable_id(str(tmp_path / "b.wav"), 0.0, None)
    assert read(tmp_path) == clips


def test_folder_without_audio_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    for name in ("empty", "texts"):
        with pytest.raises(UserError, match=r"holds no audio files .*JSON-lines"):
            read(tmp_path / name)


def test_names_and_texts_that_are_not_unicode_raise_an_error(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.1)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8"):
        read(tmp_path)
    (tmp_path / "a.txt").unlink()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")).write_bytes(b"")
    with pytest.raises(UserError, match="not Unicode; rename"):
        read(tmp_path)


# Lhotse cuts


def make_cut(**changes: Any) -> dict[str, Any]:
    recording = {
        "id": "rec",
        "sources": [{"type": "file", "channels": [0], "source": "audio/rec.flac"}],
        "sampling_rate": 16000,
        "num_samples": 160000,
        "duration": 10.0,
        "channel_ids": [0],
    }
    supervision = {
        "id": "sup-1",
        "recording_id": "rec",
        "start": 0.0,
        "duration": 2.5,
        "channel": 0,
        "text": "good morning",
        "language": "en",
        "speaker": "anna",
        "custom": {"snr": 20},
    }
    whole = {
        "id": "cut-1",
        "start": 1.25,
        "duration": 2.5,
        "channel": 0,
        "supervisions": [supervision],
        "recording": recording,
        "type": "MonoCut",
    }
    return whole | changes


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_lhotse_cuts_become_clips(tmp_path: Path, name: str) -> None:
    later = make_cut()["supervisions"][0] | {"start": 1.5, "duration": 1.0, "text": "everyone"}
    url = {"sources": [{"type": "url", "channels": [0], "source": "s3://bucket/rec.wav"}]}
    two = [{"type": "file", "channels": [n], "source": f"/abs/{n}.wav"} for n in (0, 1)]
    manifest = write_lines(
        tmp_path / name,
        make_cut(custom={"domain": "radio"}),
        make_cut(id="cut-2", supervisions=[later, make_cut()["supervisions"][0]], recording=url),
        make_cut(id="cut-3", supervisions=[], channel=1, recording={"sources": two}, start=0),
    )
    first, second, third = read(manifest)
    assert first == Clip(
        clip_id="cut-1",
        uri=f"{tmp_path}/audio/rec.flac",
        offset=1.25,
        duration=2.5,
        text="good morning",
        labels={"domain": "radio", "language": "en", "speaker": "anna", "snr": 20},
    )
    assert (second.uri, second.text) == ("s3://bucket/rec.wav", "good morning everyone")
    assert [supervision["start"] for supervision in second.labels["supervisions"]] == [0.0, 1.5]
    assert third == Clip(clip_id="cut-3", uri="/abs/1.wav", duration=2.5)


STEREO = {"sources": [{"type": "file", "channels": [0, 1], "source": "a.wav"}]}
COMMAND = {"sources": [{"type": "command", "channels": [0], "source": "sph2pipe a.sph"}]}
FASTER = make_cut()["recording"] | {"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "MixedCut", "tracks": []}, "expected a MonoCut, found a MixedCut"),
        ({"recording": None}, "no recording"),
        ({"recording": STEREO}, r"the channels \[\[0, 1\]\]"),
        ({"recording": COMMAND}, "of type 'command'"),
        ({"recording": FASTER}, "changed by Speed"),
        ({"start": "early"}, "start must be a number"),
        ({"recording": {"id": "rec"}}, "not a cut as lhotse writes it"),
        ({"supervisions": ["hello"]}, "not a cut as lhotse writes it"),
    ],
)
def test_unsupported_lhotse_cut_raises_an_error(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    manifest = write_lines(tmp_path / "cuts.jsonl", make_cut(), make_cut(**changes))
    with pytest.raises(UserError, match=rf"cuts\.jsonl:2: .*{message}"):
        read(manifest)


# Hugging Face datasets


def wav_bytes(seconds: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(round(seconds * 16000)), 16000, format="WAV")
    return buffer.getvalue()


@pytest.fixture
def parquet_dataset(tmp_path: Path) -> Path:
    """A data set in the hub's form: Parquet files by split, with features in their metadata."""
    pytest.importorskip("datasets")
    features = {
        "audio": {"_type": "Audio", "sampling_rate": 16000},
        "transcription": {"_type": "Value", "dtype": "string"},
        "mood": {"_type": "ClassLabel", "names": ["calm", "glad"]},
    }
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    outside = write_tone(tmp_path / "outside.wav", 0.75)
    table = pa.table(
        {
            "audio": pa.array(
                [
                    {"bytes": wav_bytes(0.5), "path": "a.wav"},
                    {"bytes": wav_bytes(0.5), "path": "a.wav"},
                    {"bytes": None, "path": str(outside)},
                ],
                audio,
            ),
            "transcription": ["hello", None, "outside"],
            "mood": [0, 1, -1],
        },
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 1), folder / "data" / "test-00000-of-00001.parquet")
    return folder


def test_dataset_of_parquet_files_becomes_clips(parquet_dataset: Path, tmp_path: Path) -> None:
    audio = tmp_path / "corpus" / "audio"
    clips = read(f"hf:{parquet_dataset}?split=train", audio)
    assert [clip.text for clip in clips] == ["hello", None, "outside"]
    assert [clip.labels for clip in clips] == [{"mood": "calm"}, {"mood": "glad"}, {}]
    assert [clip.estimated_duration for clip in clips] == [0.5, 0.5, 0.75]
    assert [clip.duration for clip in clips] == [None] * 3
    first, second, third = (Path(clip.uri) for clip in clips)
    assert first.read_bytes() == second.read_bytes() == wav_bytes(0.5)
    assert first.is_relative_to(audio)
    assert first.suffix == ".wav"
    assert third == tmp_path / "outside.wav"
    assert len({clip.clip_id for clip in clips}) == 3
    # Ids do not depend on where the corpus is; both splits are read where none is asked for.
    elsewhere = {clip.clip_id for clip in read(f"hf:{parquet_dataset}", tmp_path / "elsewhere")}
    assert {clip.clip_id for clip in clips} < elsewhere
    assert len(elsewhere) == 4


def test_saved_dataset_gives_the_same_clips_as_a_streamed_one(
    parquet_dataset: Path, tmp_path: Path
) -> None:
    import datasets

    files = str(parquet_dataset / "data" / "train-*.parquet")
    cache = str(tmp_path / "hf_cache")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    loaded.save_to_disk(tmp_path / "saved")
    clips = read(tmp_path / "saved", tmp_path / "audio")
    streamed = read(f"hf:{parquet_dataset}?split=train", tmp_path / "audio")
    assert clips[:2] == streamed[:2]
    # Saving has put the third row's file into the dataset, as bytes.
    assert Path(clips[2].uri).read_bytes() == Path(streamed[2].uri).read_bytes()


def test_unreadable_dataset_raises_an_error(
    parquet_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no split 'dev'; it has "):
        read(f"hf:{parquet_dataset}?split=dev")
    with pytest.raises(UserError, match="only name and split are options"):
        read(f"hf:{parquet_dataset}?subset=dev")
    (tmp_path / "words").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "words" / "train.parquet")
    with pytest.raises(UserError, match="found none among the columns text"):
        read(tmp_path / "words")
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(
        UserError, match="cannot open the dataset 'no/such': Couldn't reach the Hub;"
    ):
        read("hf:no/such")


# Invalid sources


def test_missing_or_empty_source_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*/absent; expected a folder of audio files"):
        read(tmp_path / "absent")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="is empty"):
        read(tmp_path / "empty.jsonl")
    with pytest.raises(UserError, match=r"a.wav is not UTF-8 text"):
        read(write_tone(tmp_path / "a.wav", 0.1))
