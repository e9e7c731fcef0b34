"""Tests for corpora of tars against webdataset, for NeMo's tarred sets, and for invalid tars."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset
from webdataset.tariterators import tarfile_samples

from manifests import audio
from manifests.clips import Clip
from manifests.corpus import corpus
from manifests.corpus.sources import detect
from manifests.corpus.sources.tar_index import expand
from manifests.errors import UserError
from manifests.storage import Folder
from tests.manifests.reference_audio import noise


def read(source: Path | str) -> list[Clip]:
    return list(detect.clips(str(source), Folder("/nowhere")))


def flac(seed: int, seconds: float = 0.1) -> bytes:
    sink = io.BytesIO()
    soundfile.write(sink, noise(seconds, 16000, seed=seed), 16000, format="FLAC")
    return sink.getvalue()


def write_tar(path: Path, *members: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_set(folder: Path) -> str:
    """Writes two tars with webdataset, and returns the pattern of their names."""
    folder.mkdir()
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"a-{shard:03d}.tar")) as writer:
            for index in range(3):
                seed = 3 * shard + index
                writer.write(
                    {
                        "__key__": f"spéech/{seed:04d}",
                        "flac": flac(seed),
                        "json": {"speaker": f"s{seed}", "duration": 0.1, "text": "from json"},
                        "txt": f"words {seed}",
                        "cls": seed,
                        "emotion.txt": "calm",
                    }
                )
    return str(folder / "a-{000..001}.tar")


@pytest.mark.parametrize("as_folder", [False, True])
def test_tar_clips_match_webdataset(tmp_path: Path, as_folder: bool):
    pattern = write_set(tmp_path / "set")
    made = corpus.build(read(tmp_path / "set" if as_folder else pattern), tmp_path / "corpus")
    urls = [{"url": str(tmp_path / "set" / f"a-{shard:03d}.tar")} for shard in range(2)]
    expected = list(tarfile_samples(urls))
    clips = list(made.clips())
    assert [clip.clip_id for clip in clips] == [sample["__key__"] for sample in expected]
    for clip, sample in zip(clips, expected, strict=True):
        assert clip.text == sample["txt"].decode()
        assert clip.labels["cls"] == int(sample["cls"])
        assert clip.labels["speaker"] == json.loads(sample["json"])["speaker"]
        assert clip.labels["emotion"] == "calm"
        assert clip.estimated_duration == 0.1
        samples, _ = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        assert np.array_equal(audio.decode(clip).samples, samples)
    again = corpus.build(read(tmp_path / "set"), tmp_path / "corpus")
    assert again.digest == made.digest


def test_pax_and_gnu_tars_are_read(tmp_path: Path):
    name = "long/" + "x" * 150 + "/ü.1.FLAC"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = write_tar(tmp_path / f"{form}.tar", (name, flac(form)), form=form)
        (clip,) = read(path)
        assert clip.clip_id == name.removesuffix(".1.FLAC")
        expected, _ = soundfile.read(io.BytesIO(flac(form)), dtype="float32")
        assert np.array_equal(audio.decode(clip).samples, expected)


def test_repeated_keys_raise_an_error_unless_ids_include_the_tar(tmp_path: Path):
    for name in ("a", "b"):
        write_tar(tmp_path / "set" / f"{name}.tar", ("0.flac", flac(0)))
    with pytest.raises(UserError, match=r"occurs twice.*append \?ids=tar to the source"):
        corpus.build(read(tmp_path / "set"), tmp_path / "corpus")
    ids = [clip.clip_id for clip in read(f"{tmp_path}/set?ids=tar")]
    assert ids == ["a/0", "b/0"]


@pytest.mark.parametrize("name", ["cuts.train.jsonl.gz", "tarred_audio_manifest.json"])
def test_tars_with_a_separate_manifest_raise_an_error(tmp_path: Path, name: str):
    write_tar(tmp_path / "recording.000000.tar", ("0.flac", flac(0)))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="beside its tars"):
        read(tmp_path)


def test_skipped_members_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    members = [("0.flac", flac(0)), ("0.npy", b"x"), ("1.txt", b"alone"), ("2.wav", b"")]
    (clip,) = read(write_tar(tmp_path / "a.tar", *members))
    assert clip.clip_id == "0"
    assert "1 members .npy" in caplog.text
    assert "1 samples without audio" in caplog.text
    assert "1 samples whose audio is empty" in caplog.text


def test_folder_with_audio_and_tars_is_a_folder_of_audio(tmp_path: Path):
    write_tar(tmp_path / "set" / "a.tar", ("0.flac", flac(0)))
    (tmp_path / "set" / "own.flac").write_bytes(flac(1))
    assert [clip.uri for clip in read(tmp_path / "set")] == [f"{tmp_path}/set/own.flac"]


def test_tars_are_read_from_an_object_store(tmp_path: Path, s3: object):
    path = write_tar(tmp_path / "a.tar", ("0.flac", flac(0)), ("0.txt", b"hi"))
    Folder("s3://data/tars").write_atomic("a.tar", path.read_bytes())
    (clip,) = read("s3://data/tars")
    assert clip.text == "hi"
    assert clip.uri.startswith("s3://data/tars/a.tar#bytes=")
    expected, _ = soundfile.read(io.BytesIO(flac(0)), dtype="float32")
    assert np.array_equal(audio.decode(clip).samples, expected)


@pytest.mark.parametrize("name", ["", "rec/", "set.jsonl", "a.tar", "{00..01}.tar"])
def test_source_in_a_missing_bucket_names_the_bucket(s3: object, name: str):
    with pytest.raises(UserError, match="there is no bucket dta; create it, or correct s3://dta"):
        list(read(f"s3://dta/{name}"))


def check_rejected(path: Path, data: bytes, match: str) -> None:
    path.write_bytes(data)
    with pytest.raises(UserError, match=match):
        read(path)


def test_compressed_damaged_and_ambiguous_tars_raise_an_error(tmp_path: Path):
    import bz2
    import gzip
    import lzma

    good = write_tar(tmp_path / "good.tar", *((f"{i}.flac", flac(i)) for i in range(3)))
    data = good.read_bytes()
    for suffix, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        check_rejected(tmp_path / f"a.tar{suffix}", pack(data), "unpack it")
        check_rejected(tmp_path / "named_plain.tar", pack(data), "unpack it")
    second = [clip.uri for clip in read(good)][1]
    first = int(second.rpartition("=")[2].split("-")[0])
    check_rejected(tmp_path / "b.tar", data[: first + 50], "damaged")
    check_rejected(
        tmp_path / "c.tar", data[: first - 512] + b"\x07" * 512 + data[first:], "damaged header"
    )
    check_rejected(tmp_path / "d.tar", data + data, "second archive")
    check_rejected(tmp_path / "e.tar", b"no tar at all" * 100, "not a tar")
    check_rejected(tmp_path / "f.tar", b"", "not a tar")
    with pytest.raises(UserError, match="there is no"):
        read(tmp_path / "none-{0..1}.tar")
    both = write_tar(tmp_path / "g.tar", ("0.flac", flac(0)), ("0.wav", flac(1)))
    with pytest.raises(UserError, match="expected one"):
        read(both)
    with pytest.raises(UserError, match="no sample with audio"):
        read(write_tar(tmp_path / "h.tar", ("0.txt", b"x")))
    with pytest.raises(UserError, match=r"sample 0: the member .json"):
        read(write_tar(tmp_path / "i.tar", ("0.flac", flac(0)), ("0.json", b"{")))


def test_sparse_member_raises_an_error(tmp_path: Path):
    info = tarfile.TarInfo("0.wav")
    info.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(UserError, match="sparse"):
        read(tmp_path / "a.tar")


def test_expand_resolves_patterns_and_rejects_invalid_ones():
    assert expand("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand("{x,y}/a__OP_0..1_CL_.tar") == [f"{d}/a_{i}.tar" for d in "xy" for i in (0, 1)]
    assert expand("plain.tar") == ["plain.tar"]
    for bad in ("a{1..0}.tar", "a{0..99999999}.tar", "a{0..1.tar", "a{x}.tar"):
        with pytest.raises(UserError, match="a"):
            expand(bad)


# NeMo's tarred sets


def write_tarred(folder: Path) -> list[dict]:
    """Writes a set in the layout of NeMo's script for tarred sets, and returns its rows."""
    rows = []
    for shard in range(2):
        write_tar(
            folder / f"audio_{shard}.tar", *((f"d_{i}.flac", flac(2 * shard + i)) for i in (0, 1))
        )
        own = [
            {"audio_filepath": "d_0.flac", "duration": 0.1, "text": f"a{shard}", "shard_id": shard},
            {"audio_filepath": "d_1.flac", "duration": 0.04, "text": "b", "shard_id": shard},
            {
                "audio_filepath": "d_1-sub1.flac",
                "offset": 0.05,
                "duration": 0.05,
                "shard_id": shard,
            },
        ]
        lines = "".join(json.dumps(row) + "\n" for row in own)
        (folder / "sharded_manifests").mkdir(exist_ok=True)
        (folder / "sharded_manifests" / f"manifest_{shard}.json").write_text(lines)
        rows += own
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "tarred_audio_manifest.json").write_text(text)
    return rows


def test_tarred_set_of_nemo_gives_the_samples_of_each_row(tmp_path: Path):
    rows = write_tarred(tmp_path)
    clips = read(tmp_path / "tarred_audio_manifest.json")
    assert clips == read(tmp_path / "sharded_manifests" / "manifest__OP_0..1_CL_.json")
    (tmp_path / "tars").mkdir()
    for shard in range(2):
        (tmp_path / f"audio_{shard}.tar").rename(tmp_path / "tars" / f"x{shard}.tar")
    with pytest.raises(UserError, match="pass the location of the tars"):
        read(tmp_path / "tarred_audio_manifest.json")
    clips = read(f"{tmp_path}/tarred_audio_manifest.json?tars=tars/x_OP_0..1_CL_.tar")
    assert [clip.text for clip in clips] == [row.get("text") for row in rows]
    for clip, row in zip(clips, rows, strict=True):
        seed = 2 * row["shard_id"] + int(row["audio_filepath"][2])
        whole, _ = soundfile.read(io.BytesIO(flac(seed)), dtype="float32")
        start = round(row.get("offset", 0) * 16000)
        stop = start + round(row["duration"] * 16000)
        assert np.array_equal(audio.decode(clip).samples, whole[start:stop])


def test_nemo_row_without_its_member_raises_an_error(tmp_path: Path):
    write_tarred(tmp_path)
    manifest = tmp_path / "m.json"
    for row, match in (
        ({"audio_filepath": "none.flac", "shard_id": 0}, "has no audio 'none.flac'"),
        ({"audio_filepath": "d_0.flac", "shard_id": 7}, r"there is no .*audio_7\.tar"),
        ({"audio_filepath": "d_0.flac", "shard_id": "x"}, "expected shard_id"),
    ):
        manifest.write_text(json.dumps(row) + "\n")
        with pytest.raises(UserError, match=match):
            read(manifest)
