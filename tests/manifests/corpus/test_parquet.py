"""Tests that Parquet files with audio are read in place, with the rows of `datasets`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from manifests import audio
from manifests.clips import Clip
from manifests.corpus import corpus
from manifests.corpus.sources import detect
from manifests.errors import UserError
from manifests.storage import Folder
from tests.manifests.reference_audio import noise


def read(source: Path | str, stored: Path | str = "/nowhere") -> list[Clip]:
    return list(detect.clips(str(source), Folder(stored)))


def wav(seed: int) -> bytes:
    sink = io.BytesIO()
    soundfile.write(sink, noise(0.1, 16000, seed=seed), 16000, format="WAV")
    return sink.getvalue()


def decode_wav(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32")[0]


def test_clips_match_the_package_datasets(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    mood = datasets.ClassLabel(names=["calm", "glad"])
    rows = {
        "audio": [{"bytes": wav(seed), "path": "cut_from.wav"} for seed in range(5)],
        "sentence": [f"words {seed}" for seed in range(5)],
        "mood": [0, 1, -1, 1, 0],
        "moods": [[0, 1]] * 5,
        "by": [{"mood": 1, "n": seed} for seed in range(5)],
    }
    features = datasets.Features(
        audio={"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        sentence=datasets.Value("string"),
        mood=mood,
        moods=datasets.List(mood),
        by={"mood": mood, "n": datasets.Value("int32")},
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    made = made.cast_column("audio", datasets.Audio(decode=False))
    (tmp_path / "set" / "data").mkdir(parents=True)
    made.to_parquet(tmp_path / "set" / "data" / "train-0.parquet", batch_size=2)
    built = corpus.build(read(tmp_path / "set"), tmp_path / "corpus")
    clips = list(built.clips())
    for clip, row in zip(
        clips, made.cast_column("audio", datasets.Audio(decode=False)), strict=True
    ):
        assert clip.text == row["sentence"]
        assert clip.estimated_duration == 0.1
        expected = decode_wav(row["audio"]["bytes"])
        assert np.array_equal(audio.decode(clip).samples, expected)
    assert [clip.labels.get("mood") for clip in clips] == ["calm", "glad", None, "glad", "calm"]
    assert clips[0].labels["moods"] == ["calm", "glad"]
    assert clips[3].labels["by"] == {"mood": "glad", "n": 3}
    assert not (tmp_path / "corpus" / "audio").exists()


def test_bytes_take_precedence_over_the_path(tmp_path: Path):
    (tmp_path / "own.wav").write_bytes(wav(7))
    column = [{"bytes": wav(0), "path": "own.wav"}, {"bytes": None, "path": "own.wav"}]
    pq.write_table(pa.table({"audio": column, "id": ["a", "b"]}), tmp_path / "a.parquet")
    clips = read(tmp_path / "a.parquet")
    assert [clip.clip_id for clip in clips] == ["a", "b"]
    assert np.array_equal(audio.decode(clips[0]).samples, decode_wav(wav(0)))
    assert clips[1].uri == f"{tmp_path}/own.wav"


def test_column_of_plain_bytes_is_read_from_an_object_store(tmp_path: Path, s3: object):
    table = pa.table({"audio": [wav(0), wav(1), wav(2)], "speaker": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    Folder("s3://data/rows").write_atomic("a.parquet", (tmp_path / "a.parquet").read_bytes())
    clips = read("s3://data/rows")
    assert [clip.labels for clip in clips] == [{"speaker": name} for name in "xyz"]
    for seed, clip in enumerate(clips):
        assert np.array_equal(audio.decode(clip).samples, decode_wav(wav(seed)))


def test_corpus_with_copied_audio_keeps_copying(tmp_path: Path):
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    table = pa.table({"audio": [{"bytes": wav(0), "path": "a.wav"}]})
    pq.write_table(table, tmp_path / "set" / "a.parquet")
    before = read(f"hf:{tmp_path}/set", tmp_path / "audio")
    assert read(tmp_path / "set", tmp_path / "audio") == before


def test_files_without_usable_audio_raise_an_error(tmp_path: Path):
    path = tmp_path / "a.parquet"
    for columns, match in (
        ({"text": ["a"]}, "found none among the columns text"),
        ({"audio": [{"bytes": None, "path": "none.wav"}]}, r"row=0.*no bytes, and no such file"),
        ({"x": [{"bytes": b"1"}], "y": [{"bytes": b"1"}]}, "found x, y"),
    ):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(UserError, match=match):
            read(path)
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match="cannot be read"):
        read(path)
