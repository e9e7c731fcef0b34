"""Tests for the object stores of Google and Azure, with emulators: folders, sources, corpora."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import audio, cli
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus
from manifests.corpus.sources import tar_index
from manifests.decoders import ranged
from manifests.storage import Folder, identity
from tests.manifests.corpus.test_tars import flac, write_tar
from tests.manifests.reference_audio import write_reference


def test_folder_operations_work_in_an_object_store(store: str):
    folder = Folder(f"{store}/folder")
    assert folder.names() == folder.folders() == []
    for name in ("a/x.txt", "a/b/y.txt", "♪ 100%#1.txt", "z.txt"):
        folder.write_atomic(name, name.encode())
    assert folder.names() == ["z.txt", "♪ 100%#1.txt"]
    assert folder.folders() == ["a"]
    assert folder.child("a").folders() == ["b"]
    assert folder.read_bytes("♪ 100%#1.txt").decode() == "♪ 100%#1.txt"
    assert (folder.exists("a"), folder.exists("b"), folder.size("z.txt")) == (True, False, 5)
    folder.move("z.txt", "moved.txt")
    assert (folder.size("z.txt"), folder.size("moved.txt")) == (None, 5)
    before = identity(f"{store}/folder/moved.txt")
    folder.write_atomic("moved.txt", b"longer")
    assert identity(f"{store}/folder/moved.txt") != before
    folder.delete_all()
    assert folder.names() == folder.folders() == []
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("moved.txt")


def upload(path: Path, address: str) -> None:
    Folder(address.rpartition("/")[0]).write_atomic(path.name, path.read_bytes())


def test_sources_in_an_object_store_are_read_in_place(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    members = [(f"{n}.flac", flac(n)) for n in range(3)] + [("2.txt", b"two")]
    upload(write_tar(tmp_path / "a.tar", *members), f"{store}/tars/a.tar")
    table = pa.table({"audio": [flac(n) for n in range(3)], "text": list("abc")})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    upload(tmp_path / "rows.parquet", f"{store}/rows/rows.parquet")
    for n in range(3):
        (tmp_path / f"{n}.flac").write_bytes(flac(n))
        upload(tmp_path / f"{n}.flac", f"{store}/files/deep/er/{n}.flac")

    read: list[str] = []
    original = tar_index._read
    monkeypatch.setattr(
        tar_index, "_read", lambda *given: read.append(given[0]) or original(*given)
    )
    expected = [flac(n) for n in range(3)]
    for source in ("tars", "tars", "rows", "files"):
        out = f"{store}/corpora/{source}"
        cli.build(f"{store}/{source}", out)
        clips = list(Corpus(out).clips())
        assert len(clips) == len(expected)
        for n, clip in enumerate(clips):
            assert clip.uri.startswith(f"{store}/{source}/")
            (tmp_path / "expected.flac").write_bytes(expected[n])
            wave = audio.decode(clip)
            whole = audio.decode(Clip(clip_id="x", uri=str(tmp_path / "expected.flac")))
            assert np.array_equal(wave.samples, whole.samples)
        if source != "rows":
            assert [clip.estimated_duration for clip in clips] == [0.1] * 3
    assert read == [f"{store}/tars/a.tar"]


def test_clip_of_a_long_remote_file_reads_only_its_bytes(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    upload(write_reference(tmp_path / "long.wav", 120.0), f"{store}/long.wav")
    fetched: Counter[str] = Counter()
    original = ranged._open_object

    def counting(file: str, part: Any) -> Any:
        blocks = original(file, part)
        read = blocks.read
        blocks.read = lambda start, count: fetched.update(bytes=count) or read(start, count)
        return blocks

    monkeypatch.setattr(ranged, "_open_object", counting)
    clip = Clip(clip_id="cut", uri=f"{store}/long.wav", offset=60.0, duration=2.0)
    local = Clip(clip_id="cut", uri=str(tmp_path / "long.wav"), offset=60.0, duration=2.0)
    assert np.array_equal(audio.decode(clip).samples, audio.decode(local).samples)
    assert 64_000 < fetched["bytes"] < 2 * 64_000
