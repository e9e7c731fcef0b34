"""Tests that the index of markers agrees with the markers, also when it is old or damaged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.cache import marker_index, shards
from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.cache.shard_files import DATA_NAME
from manifests.storage import Folder
from tests.manifests.frames import FAILED, make_cache, spec


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    make_cache(tmp_path)
    layout = Layout.open(tmp_path / "cache")
    return layout.shards(layout.current()["every"], "corpus")


def drop_columns(folder: Folder) -> None:
    """Rewrites the index file with only the columns that earlier versions wrote."""
    path = folder.path("index/0000000.parquet")
    table = pq.read_table(path)
    pq.write_table(table.select(["shard", "size", "changed", "marker"]), path)


def touch_marker(folder: Folder) -> None:
    """Changes the modification time of a marker, which makes its entry in the index stale."""
    os.utime(folder.path("markers/0000001.json"), ns=(1, 1))


@pytest.mark.parametrize("state", ["none", "whole", "old", "stale", "broken"])
def test_read_data_files_agrees_with_the_markers(folder: Folder, state: str):
    if state != "none":
        marker_index.refresh(folder)
    if state == "old":
        drop_columns(folder)
    if state == "stale":
        touch_marker(folder)
    if state == "broken":
        Path(folder.path("index/0000000.parquet")).write_bytes(b"not Parquet")
    numbers = shards.committed(folder)
    markers = [shards.read_marker(folder, number) for number in numbers]
    contents = marker_index.read_data_files(folder)
    assert [
        (file.shard, file.clips, file.rows, file.clips_digest, file.data, file.data_bytes)
        for file in contents.files
    ] == [
        (each.shard, each.clips, each.rows, each.clips_digest, each.data, each.data_bytes)
        for each in markers
    ]
    assert contents.failed_ids == [f"clip{FAILED:02d}"]
    expected = marker_index.read_sums(folder)
    for name, sums in contents.sums().items():
        assert sums.num_frames == expected[name].num_frames > 0
        assert np.array_equal(sums.total_D, expected[name].total_D)


def test_refresh_rewrites_an_index_of_an_earlier_version(folder: Folder):
    assert marker_index.refresh(folder) == 1
    drop_columns(folder)
    assert marker_index.refresh(folder) == 1
    assert marker_index.refresh(folder) == 0
    columns = pq.read_schema(folder.path("index/0000000.parquet")).names
    assert columns[4:] == [column.name for column in marker_index.DATA_COLUMNS]


def test_index_with_a_path_outside_the_cache_is_ignored(folder: Folder):
    """An index from an untrusted source must not make a reader open files outside the cache."""
    marker_index.refresh(folder)
    path = folder.path("index/0000000.parquet")
    table = pq.read_table(path)
    names = pa.array(["../../../../0000000-00000000.parquet"] * len(table))
    place = table.column_names.index("data")
    pq.write_table(table.set_column(place, table.schema.field("data"), names), path)
    files = marker_index.read_data_files(folder).files
    assert all(DATA_NAME.fullmatch(file.data) for file in files)


def test_opening_and_statistics_list_the_markers_once(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
):
    marker_index.refresh(folder)
    listed: list[str] = []
    stamps = shards.marker_stamps

    def counted(each: Folder) -> dict[int, tuple[int, int]]:
        listed.append(each.uri)
        return stamps(each)

    monkeypatch.setattr(shards, "marker_stamps", counted)
    monkeypatch.setattr(shards, "read_marker", None)
    reader = CacheReader(Path(folder.uri).parents[2])
    for stream in spec().streams:
        assert reader.stream(f"every.{stream.name}").statistics().num_frames > 0
    assert listed == [folder.uri]


def test_each_marker_is_read_once_without_an_index(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    numbers: list[int] = []
    read = shards.read_marker

    def counted(each: Folder, number: int) -> shards.Marker:
        numbers.append(number)
        return read(each, number)

    monkeypatch.setattr(shards, "read_marker", counted)
    contents = marker_index.read_data_files(folder)
    assert contents.sums().keys() == {stream.name for stream in spec().streams}
    assert numbers == shards.committed(folder)
