"""Tests odd variants of each form against its own library, or for an error with instructions."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from manifests import audio
from manifests.clips import Clip
from manifests.corpus.sources import detect
from manifests.errors import UserError
from manifests.storage import Folder
from tests.manifests.corpus.test_tars import flac, write_tar
from tests.manifests.reference_audio import write_reference


def read(source: Path | str) -> list[Clip]:
    return list(detect.clips(str(source), Folder("/nowhere")))


# WebDataset


def test_samples_with_separated_members_are_rejected(tmp_path: Path) -> None:
    """webdataset makes four samples of them, and two texts would be lost."""
    members = [("0.flac", flac(0)), ("1.flac", flac(1)), ("0.txt", b"zero"), ("1.txt", b"one")]
    tar = write_tar(tmp_path / "a.tar", *members)
    assert len(list(webdataset.WebDataset(str(tar), shardshuffle=False))) == 4
    with pytest.raises(UserError, match=r"sample 0 do not follow each other.*tar --sort=name"):
        read(tar)
    assert [clip.text for clip in read(write_tar(tmp_path / "b.tar", *sorted(members)))] == [
        "zero", "one",
    ]  # fmt: skip


def test_members_of_macos_and_without_a_key_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["._a.flac", "a.flac", "._a.txt", "a.txt", "d/._b.flac", "d/b.flac", ".DS_Store", "x"]
    sound = iter(range(9))
    members = [(name, flac(next(sound)) if name.endswith("flac") else b"hi") for name in names]
    clips = read(write_tar(tmp_path / "a.tar", *members, ("__notes__", b"x")))
    assert [(clip.clip_id, clip.text) for clip in clips] == [("a", "hi"), ("d/b", None)]
    assert "5 hidden members and members without an extension" in caplog.text


def test_empty_tars_and_unicode_names_are_read(tmp_path: Path) -> None:
    long = "x" * 150 + "/" + "ü" * 120
    names = [f"héllo/日本 {n}" for n in range(2)] + [long, "./d/UP"]
    members = []
    for n, name in enumerate(names):
        suffixes = ("FLAC", "TXT") if name.endswith("UP") else ("flac", "txt")
        members += [(f"{name}.{suffixes[0]}", flac(n)), (f"{name}.{suffixes[1]}", b"t")]
    write_tar(tmp_path / "set/a-000.tar")
    write_tar(tmp_path / "set/a-001.tar", *members)
    write_tar(tmp_path / "set/._a-001.tar", ("z.flac", flac(9)))
    theirs = webdataset.WebDataset(str(tmp_path / "set/a-001.tar"), shardshuffle=False)
    clips = read(tmp_path / "set")
    assert [clip.clip_id for clip in clips] == [sample["__key__"] for sample in theirs]
    assert [clip.text for clip in clips] == ["t"] * 4
    assert [audio.decode(clip).seconds for clip in clips] == [0.1] * 4


# Energon


def test_energon_leaves_out_tars_and_samples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a-0", "a-1", "a-2"):
        write_tar(tmp_path / f"parts/{name}.tar", *((f"{name}x{n}.flac", flac(n)) for n in (0, 1)))
    (tmp_path / ".nv-meta").mkdir()
    (tmp_path / ".nv-meta/split.yaml").write_text(
        "exclude: ['parts/a-{1..1}.tar', parts/a-0.tar/a-0x1]\n"
        "split_parts: {train: ['parts/a-{0..2}.tar']}\n"
    )
    assert [clip.clip_id for clip in read(tmp_path)] == ["a-0x0", "a-2x0", "a-2x1"]
    assert "1 excluded samples" in caplog.text


# Shar


def write_shar(folder: Path, *, shard_size: int | None) -> list[Any]:
    """Writes three cuts with a recording and an array; returns the cuts that lhotse reads."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    recording = Recording.from_file(write_reference(folder.parent / "recording.wav", 5.0))
    cuts = []
    for n in range(3):
        spoken = SupervisionSegment(
            id=f"s{n}", recording_id=recording.id, start=0.0, duration=0.8, text=f"text {n}"
        )
        cut = MonoCut(
            id=f"ü {n}", start=0.9 * n, duration=0.8, channel=0, recording=recording,
            supervisions=[spoken], custom={"emotion": "sad", "scores": {"snr": 3}},
        )  # fmt: skip
        cuts.append(cut.attach_tensor("codes", np.arange(4)))
    folder.mkdir()
    fields = {"recording": "flac", "codes": "numpy"}
    CutSet.from_cuts(cuts).to_shar(folder, fields=fields, shard_size=shard_size)
    return list(CutSet.from_shar(in_dir=folder))


@pytest.mark.parametrize("shard_size", [2, None])
def test_shar_with_extra_fields_is_read(tmp_path: Path, shard_size: int | None) -> None:
    cuts = write_shar(tmp_path / "shar", shard_size=shard_size)
    assert (tmp_path / "shar/cuts.jsonl.gz").exists() == (shard_size is None)
    clips = read(tmp_path / "shar")
    assert [(clip.clip_id, clip.text) for clip in clips] == [
        (cut.id, cut.supervisions[0].text) for cut in cuts
    ]
    for clip, cut in zip(clips, cuts, strict=True):
        assert clip.labels == {"emotion": "sad", "scores": {"snr": 3}}
        assert np.array_equal(audio.decode(clip).samples, cut.load_audio()[0])


def test_folder_of_plain_cuts_is_not_read_as_shar(tmp_path: Path) -> None:
    (tmp_path / "cuts.jsonl.gz").write_bytes(b"")
    (tmp_path / "a.flac").write_bytes(flac(0))
    assert len(read(tmp_path)) == 1


# AudioFolder

TABLE = """\ufefffile_name,text,age,loud,noise,speaker,empty,mixed
a.FLAC,"hi, ""you\""",3,True,-2.5,007,,1
ü/b c.flac,007,41,False,1e-3,008,,x
"""


def write_folder(folder: Path) -> None:
    (folder / "ü").mkdir(parents=True)
    (folder / "a.FLAC").write_bytes(flac(0))
    (folder / "ü/b c.flac").write_bytes(flac(1))
    (folder / "._a.FLAC").write_bytes(b"x")


def test_table_columns_have_the_types_of_datasets(tmp_path: Path) -> None:
    write_folder(tmp_path / "set")
    (tmp_path / "set/metadata.csv").write_text(TABLE, encoding="utf-8")
    clips = read(tmp_path / "set")
    assert [clip.text for clip in clips] == ['hi, "you"', "007"]
    theirs = datasets.load_dataset(
        "csv", data_files=str(tmp_path / "set/metadata.csv"), cache_dir=str(tmp_path / "cache"),
        split="train",
    )  # fmt: skip
    for clip, row in zip(clips, theirs, strict=True):
        chosen = {name: row[name] for name in ("age", "loud", "noise", "mixed")}
        assert clip.labels == {**chosen, "speaker": f"00{row['speaker']}"}
        assert type(clip.labels["age"]) is int


def test_table_rows_and_files_must_match(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path)
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,text\na.FLAC,x\nlost.wav,y\n")
    assert [clip.text for clip in read(tmp_path)] == ["x", None]
    assert "1 row of its tables names no audio file that is there, the first: " in caplog.text
    for text, match in (
        ("file_name,text\na.FLAC,x\na.FLAC,y\n", r"csv:3: a\.FLAC is also in .*csv:2; remove"),
        ("file_name,text\na.FLAC,x, y\n", r"csv:2: the row has more fields than the header"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=match):
            read(tmp_path)


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_table_can_be_parquet(tmp_path: Path, prefix: str) -> None:
    write_folder(tmp_path)
    day = datetime.date(2024, 1, 2)
    rows = {"file_name": ["a.FLAC"], "text": ["x"], "day": [day], "n": [3], "mark": [b"1"]}
    pq.write_table(pa.table(rows), tmp_path / "metadata.parquet")
    first, second = read(f"{prefix}{tmp_path}")
    assert (first.text, first.labels) == ("x", {"day": "2024-01-02", "n": 3})
    assert (second.text, second.labels) == (None, {})
    (tmp_path / "metadata.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match=r"metadata\.parquet cannot be read"):
        read(tmp_path)


# NeMo


def test_missing_manifest_of_a_pattern_is_named(tmp_path: Path) -> None:
    row = {"audio_filepath": "0.flac", "shard_id": 0}
    (tmp_path / "m_0.json").write_text(json.dumps(row))
    for shard in (0, 1):
        write_tar(tmp_path / f"audio_{shard}.tar", ("0.flac", flac(0)))
    with pytest.raises(UserError, match=r"there is no .*m_1\.json; check the path"):
        read(tmp_path / "m__OP_0..1_CL_.json")
