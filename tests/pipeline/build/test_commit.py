"""Tests for committing a shard in parts: order, bytes, memory, and a shard that is gone."""

from __future__ import annotations

import errno
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from pyarrow.fs import LocalFileSystem

from manifests.cache import stored_rows
from manifests.cache.encoded_frames import encode
from manifests.cache.shards import Failure, Row
from manifests.cache.stream_sums import Sums
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.uploads import SpooledUpload
from pipeline.build.commit import commit_shard
from pipeline.build.messages import CommitRequest, Extracted
from tests.pipeline.fakes import Energy, EnergySettings

SPEC = Energy("energy", EnergySettings()).spec()
(STREAM,) = SPEC.streams


def make_part(ids: list[str], frames: int, failed: tuple[str, ...] = ()) -> Extracted:
    rows, sums = [], Sums.zero(STREAM.dim)
    for clip_id in ids:
        rng = np.random.default_rng(int(clip_id))
        frames_TD = rng.standard_normal((frames, STREAM.dim)).astype(np.float32)
        encoded = encode(frames_TD, STREAM)
        sums.add(Sums.from_frames(frames_TD, encoded))
        rows.append(
            Row(clip_id=clip_id, duration=1.0, audio_digest="0" * 32, metadata={},
                frames={STREAM.name: encoded})
        )  # fmt: skip
    failures = [Failure(clip_id=x, stage="extract", error="e", message="m") for x in failed]
    return Extracted(rows, failures, {STREAM.name: sums})


def make_request(folder: Folder, ids: list[str], done: list[str] | None = None) -> CommitRequest:
    return CommitRequest(
        spec=SPEC, folder=folder, shard=0, ids=ids, done=done or ids, failures=[],
        extract_seconds=1.0,
    )  # fmt: skip


def test_commit_sorts_blocks_into_corpus_order(tmp_path: Path):
    ids = [str(index) for index in range(20)]
    folder = Folder(tmp_path / "a")
    parts = [make_part(ids[10:], 30), make_part(ids[:9], 40, failed=("9",))]
    marker = commit_shard(make_request(folder, ids), iter(parts))
    rows = stored_rows.read_rows(folder, marker, SPEC)
    assert [row.clip_id for row in rows] == [clip_id for clip_id in ids if clip_id != "9"]
    again = commit_shard(make_request(Folder(tmp_path / "b"), ids), iter(parts[::-1]))
    assert again.data_sha256 == marker.data_sha256

    repaired = commit_shard(make_request(folder, ids, done=["9"]), iter([make_part(["9"], 40)]))
    assert (repaired.rows, repaired.failures) == (20, {})


def test_memory_of_a_commit_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.build.row_spool.IN_MEMORY", 1 << 20)
    ids = [f"{index:03d}" for index in range(128)]
    frames = 8_000  # 128 kB a row: 16 MB in all

    def parts() -> Iterator[Extracted]:
        for first in range(0, len(ids), 4):
            yield make_part(ids[first : first + 4], frames)

    tracemalloc.start()
    marker = commit_shard(make_request(Folder(tmp_path), ids), parts())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert marker.data_bytes > 16e6
    assert peak < 8e6


def test_repairing_a_missing_shard_raises_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="is no longer committed"):
        commit_shard(
            make_request(Folder(tmp_path), ["1", "2"], done=["1"]), iter([make_part(["1"], 4)])
        )


@pytest.mark.parametrize("in_memory", [0, 100, 1 << 20], ids=["none", "some", "all"])
def test_rows_beyond_the_memory_limit_return_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
):
    ids = [str(index) for index in range(20)]
    parts = [make_part(ids[10:], 30), make_part(ids[:10], 40)]
    expected = commit_shard(make_request(Folder(tmp_path / "a"), ids), iter(parts))
    monkeypatch.setattr("pipeline.build.row_spool.IN_MEMORY", in_memory)
    marker = commit_shard(make_request(Folder(tmp_path / "b"), ids), iter(parts))
    assert marker.data_sha256 == expected.data_sha256


def test_shard_on_a_local_disk_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither the rows nor the file pass through the temporary folder."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: pytest.fail("a temporary file"))
    ids = [str(index) for index in range(4)]
    commit_shard(make_request(Folder(tmp_path), ids), iter([make_part(ids, 30_000)]))
    assert len(list((tmp_path / "data").iterdir())) == 1


def test_failed_commit_leaves_no_file(tmp_path: Path):
    def parts() -> Iterator[Extracted]:
        yield make_part(["1"], 30)
        raise OSError(errno.EIO, "the node is gone")

    with pytest.raises(OSError, match="the node is gone"):
        commit_shard(make_request(Folder(tmp_path), ["1"]), parts())
    with pytest.raises(AssertionError, match="exactly one"):
        commit_shard(make_request(Folder(tmp_path), ["1", "2"]), iter([make_part(["1"], 30)]))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def open_full(**_: object) -> IO[bytes]:
    return Path("/dev/full").open("w+b")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs: Linux's /dev/full")
@pytest.mark.parametrize("first", ["rows", "shard"])
def test_full_temporary_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
):
    """The cache's disk has room: the message must not send the user there."""
    ids = [str(index) for index in range(4)]
    folder = Folder(tmp_path / "cache")
    if first == "rows":
        monkeypatch.setattr("pipeline.build.row_spool.IN_MEMORY", 0)
    else:
        monkeypatch.setattr("manifests.uploads.IN_MEMORY", 1 << 10)
        upload = SpooledUpload(LocalFileSystem(), str(tmp_path / "cache"))
        monkeypatch.setattr(folder, "new_file", lambda name: upload)
    monkeypatch.setattr(tempfile, "TemporaryFile", open_full)
    monkeypatch.setattr(tempfile, "tempdir", "/small/disk")
    request = make_request(folder, ids)
    with pytest.raises(OSError, match=r"No space left .* /small/disk.*TMPDIR") as failed:
        commit_shard(request, iter([make_part(ids, 30)]))
    assert failed.value.errno == errno.ENOSPC
    assert not (tmp_path / "cache" / "markers").exists()
