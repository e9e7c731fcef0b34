"""Tests for lhotse's Shar against lhotse, Energon's data sets, and sources on web servers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from manifests import audio
from manifests.clips import Clip
from manifests.corpus.sources import detect
from manifests.errors import UserError
from manifests.storage import Folder
from tests.manifests.corpus.test_tars import flac, write_set, write_tar
from tests.manifests.reference_audio import write_reference
from tests.manifests.web_folder import serve


def read(source: Path | str) -> list[Clip]:
    return list(detect.clips(str(source), Folder("/nowhere")))


def write_shar(folder: Path) -> Any:
    """Writes five cuts in shards of two, and returns the cuts that lhotse reads."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    recording = Recording.from_file(write_reference(folder.parent / "recording.wav", 5.0))
    cuts = []
    for index in range(5):
        spoken = SupervisionSegment(
            id=f"s{index}", recording_id=recording.id, start=0.0, duration=0.8,
            text=f"text {index}", language="en", speaker="x",
        )  # fmt: skip
        place = {"start": 0.9 * index, "duration": 0.8, "channel": 0, "recording": recording}
        others = {"supervisions": [spoken], "custom": {"emotion": "sad"}}
        cuts.append(MonoCut(id=f"set/c{index}", **place, **others))
    folder.mkdir()
    CutSet.from_cuts(cuts).to_shar(folder, fields={"recording": "flac"}, shard_size=2)
    return list(CutSet.from_shar(in_dir=folder))


def test_shar_clips_match_lhotse(tmp_path: Path, s3: fs.FileSystem):
    cuts = write_shar(tmp_path / "shar")
    for path in (tmp_path / "shar").iterdir():
        with s3.open_output_stream(f"data/shar/{path.name}", compression=None) as stored:
            stored.write(path.read_bytes())
    for source in (str(tmp_path / "shar"), "s3://data/shar"):
        clips = read(source)
        assert [clip.clip_id for clip in clips] == [cut.id for cut in cuts]
        for clip, cut in zip(clips, cuts, strict=True):
            assert (clip.text, clip.duration) == (cut.supervisions[0].text, cut.duration)
            assert clip.labels == {"emotion": "sad", "language": "en", "speaker": "x"}
            assert np.array_equal(audio.decode(clip).samples, cut.load_audio()[0])


def test_shar_with_inconsistent_cuts_and_tars_raises_an_error(tmp_path: Path):
    write_shar(tmp_path / "shar")
    cuts = tmp_path / "shar" / "cuts.000000.jsonl.gz"
    lines = gzip.decompress(cuts.read_bytes()).splitlines(keepends=True)
    cuts.write_bytes(gzip.compress(lines[0]))
    with pytest.raises(UserError, match=r"1 cuts, and .* has audio for 2"):
        read(tmp_path / "shar")
    cuts.write_bytes(gzip.compress(lines[1] + lines[0]))
    with pytest.raises(UserError, match="not of the same set"):
        read(tmp_path / "shar")
    cuts.unlink()
    with pytest.raises(UserError, match="000000 have cuts or a tar, not both"):
        read(tmp_path / "shar")


def test_energon_splits_select_their_tars(tmp_path: Path):
    for name in ("a-00", "a-01", "b"):
        write_tar(tmp_path / "parts" / f"{name}.tar", (f"{name}.flac", flac(0)))
    (tmp_path / ".nv-meta").mkdir()
    (tmp_path / ".nv-meta" / "split.yaml").write_text(
        "exclude: []\nsplit_parts:\n  train: ['parts/a-{00..01}.tar']\n  val: [parts/b.tar]\n"
    )
    assert [clip.clip_id for clip in read(tmp_path)] == ["a-00", "a-01", "b"]
    assert [clip.clip_id for clip in read(f"{tmp_path}?split=val")] == ["b"]
    with pytest.raises(UserError, match="no split 'test'; it has train, val"):
        read(f"{tmp_path}?split=test")
    (tmp_path / ".nv-meta" / "split.yaml").write_text("x: 1")
    with pytest.raises(UserError, match="energon prepare"):
        read(tmp_path)


def test_tars_manifests_and_parquet_are_read_from_a_web_server(tmp_path: Path):
    write_set(tmp_path / "set")
    local = read(f"{tmp_path}/set/a-{{000..001}}.tar")
    rows = [{"audio_filepath": "x.flac", "text": "one"}, {"audio_filepath": "sub/y.flac"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "x.flac").write_bytes(flac(1))
    table = pa.table({"audio": [{"bytes": flac(2), "path": None}], "text": ["two"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with serve(tmp_path) as address:
        clips = read(f"{address}/set/a-{{000..001}}.tar")
        assert [(c.clip_id, c.text, c.labels) for c in clips] == [
            (c.clip_id, c.text, c.labels) for c in local
        ]
        for clip, same in zip(clips, local, strict=True):
            assert clip.uri.startswith(f"{address}/set/")
            assert audio.decode(clip).digest == audio.decode(same).digest
        first, second = read(f"{address}/m.jsonl")
        assert (first.uri, second.uri) == (f"{address}/x.flac", f"{address}/sub/y.flac")
        assert audio.decode(first).seconds == 0.1
        (row,) = read(f"{address}/a.parquet")
        assert row.text == "two"
        assert audio.decode(row).seconds == 0.1
        for missing in ("none.tar", "none.jsonl"):
            with pytest.raises(UserError, match="there is no"):
                read(f"{address}/{missing}")
