"""Tests for writing and reading shards, and for interrupted commits."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from manifests.atomic_file import TEMPORARY
from manifests.cache import shards, stored_rows
from manifests.cache.layout import Layout
from manifests.cache.shard_files import marker_file
from manifests.cache.shards import Marker, Row
from manifests.storage import Folder
from tests.manifests.frames import FAILED, KINDS, make_cache, row, spec, write_shard


def shards_folder(layout: Layout) -> Folder:
    return layout.shards(spec(), "corpus")


def is_same_row(result: Row, expected: Row) -> bool:
    blobs = all(
        bytes(result.frames[name].blob) == bytes(encoded.blob)
        and result.frames[name].num_frames == encoded.num_frames
        for name, encoded in expected.frames.items()
    )
    facts = ("clip_id", "duration", "audio_digest", "metadata")
    return blobs and all(getattr(result, fact) == getattr(expected, fact) for fact in facts)


def test_rows_and_failures_are_read_back_in_order(tmp_path: Path):
    layout = make_cache(tmp_path)
    folder, ids = shards_folder(layout), []
    for number in shards.committed(folder):
        marker = shards.read_marker(folder, number)
        rows = stored_rows.read_rows(folder, marker, spec())
        assert all(
            is_same_row(result, row(result.clip_id, int(result.clip_id[4:]))) for result in rows
        )
        assert marker.rows == len(rows)
        ids += [result.clip_id for result in rows]
    assert ids == [f"clip{index:02d}" for index in range(20) if index != FAILED]
    (failure,) = shards.read_failures(folder, shards.read_marker(folder, 0))
    assert (failure.clip_id, failure.stage, failure.error) == (
        f"clip{FAILED:02d}",
        "decode",
        "empty",
    )


def test_marker_lists_the_files_of_its_shard(tmp_path: Path):
    folder = shards_folder(make_cache(tmp_path))
    marker = shards.read_marker(folder, 0)
    data = folder.read_bytes(f"data/{marker.data}")
    assert marker.data_sha256 == hashlib.sha256(data).hexdigest()
    assert marker.data == f"0000000-{marker.data_sha256[:8]}.parquet"
    assert (marker.data_bytes, marker.clips, marker.failures) == (len(data), 11, {"empty": 1})
    assert set(marker.sums) == set(KINDS)
    assert Marker.from_bytes(marker.to_bytes()) == marker


def test_writing_the_same_rows_again_gives_the_same_file(tmp_path: Path):
    layout = make_cache(tmp_path)
    folder = shards_folder(layout)
    before = shards.read_marker(folder, 1)
    assert write_shard(layout, layout.corpus("corpus"), 1) == before
    assert len(folder.child("data").names()) == 2


def test_shard_has_small_row_groups_and_page_checksums(tmp_path: Path):
    folder = shards_folder(make_cache(tmp_path))
    name = shards.read_marker(folder, 0).data
    path = Path(folder.path(f"data/{name}"))
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert groups == [shards.ROWS_PER_GROUP, 10 - shards.ROWS_PER_GROUP]

    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"(?i)crc|checksum|corrupt"):
        stored_rows.read_rows(folder, shards.read_marker(folder, 0), spec())


def test_data_without_a_marker_is_ignored(tmp_path: Path):
    folder = shards_folder(make_cache(tmp_path))
    folder.delete(marker_file(1))
    assert shards.committed(folder) == [0]
    with pytest.raises(FileNotFoundError):
        shards.read_marker(folder, 1)


def test_temporary_marker_of_a_killed_writer_is_ignored(tmp_path: Path):
    folder = shards_folder(make_cache(tmp_path))
    Path(folder.path(f"markers/{TEMPORARY}0000002.json-ab12")).write_text("{")
    assert shards.committed(folder) == [0, 1]


def test_write_fails_when_a_clip_has_neither_row_nor_failure(tmp_path: Path):
    with pytest.raises(AssertionError, match="exactly one row or failure"):
        shards.write(
            Folder(tmp_path),
            spec(),
            shard=0,
            clip_ids=["a", "b"],
            rows=[row("a", 1)],
            failures=[],
            sums={},
            extract_seconds=0,
            finished="",
        )
