"""Tests for `CacheReader`: random access, iteration in storage order, and errors."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.cache import page_offsets, shards, stored_rows
from manifests.cache.clip_index import clip_keys
from manifests.cache.encoded_frames import encode
from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.errors import UserError
from tests.manifests.frames import FAILED, KINDS, frames, make_cache, spec, stream

PRESENT = [index for index in range(20) if index != FAILED]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    make_cache(tmp_path)
    return tmp_path / "cache"


def stored(codec: str, index: int) -> np.ndarray:
    return encode(frames(codec, seed=index, count=10 + index), stream(codec)).decode()


@pytest.mark.parametrize("codec", KINDS)
def test_getitem_returns_the_frames_of_the_clip(cache: Path, codec: str):
    result = CacheReader(cache).stream(f"every.{codec}")
    assert len(result) == len(PRESENT)
    for index in np.random.default_rng(0).permutation(PRESENT):
        np.testing.assert_array_equal(result[f"clip{index:02d}"].decode(), stored(codec, index))
        assert result.duration(f"clip{index:02d}") == 1.0 + index


@pytest.mark.parametrize("codec", KINDS)
def test_iteration_follows_storage_order(cache: Path, codec: str):
    result = CacheReader(cache).stream(f"every.{codec}")
    seen = [(clip_id, encoded.decode()) for clip_id, encoded in result]
    assert [clip_id for clip_id, _ in seen] == [f"clip{n:02d}" for n in PRESENT] == result.ids
    for (_, frames_TD), index in zip(seen, PRESENT, strict=True):
        np.testing.assert_array_equal(frames_TD, stored(codec, index))


def test_frames_stay_valid_after_the_reader_is_deleted(cache: Path):
    result = CacheReader(cache).stream("every.int8")
    kept = dict(result)
    del result
    for index in PRESENT:
        np.testing.assert_array_equal(kept[f"clip{index:02d}"].decode(), stored("int8", index))


def test_scan_reads_several_streams_in_one_pass(cache: Path):
    for clip_id, streams in CacheReader(cache).teacher("every").scan(["int8", "pitch"]):
        index = int(clip_id[4:])
        for codec in ("int8", "pitch"):
            np.testing.assert_array_equal(streams[codec].decode(), stored(codec, index))


def test_readers_can_be_pickled_without_their_open_files(cache: Path):
    reader = CacheReader(cache, corpora=["corpus"], check_pages=False)
    first, second = reader.stream("every.int8"), reader.stream("every.pitch")
    assert first["clip07"].num_frames == 17  # open files and caches are not pickled
    sent = pickle.dumps((first, second))
    assert len(sent) < 20_000
    copy, other = pickle.loads(sent)
    np.testing.assert_array_equal(copy["clip07"].decode(), stored("int8", 7))
    assert copy.teacher.spec.key == first.teacher.spec.key
    assert copy.teacher is other.teacher
    assert copy.teacher is not first.teacher


def test_metadata_and_failures_are_read(cache: Path):
    reader = CacheReader(cache)
    assert reader.metadata("every", "clip07") == {"text": "clip 7 ♪"}
    (failure,) = reader.teacher("every").failures()
    assert failure.clip_id == f"clip{FAILED:02d}"


def test_statistics_cover_all_frames(cache: Path):
    whole_TD = np.concatenate([frames("int8", seed=index, count=10 + index) for index in PRESENT])
    statistics = CacheReader(cache).stream("every.int8").statistics()
    assert statistics.num_frames == len(whole_TD)
    np.testing.assert_allclose(statistics.mean_D, whole_TD.mean(0), atol=1e-5)
    np.testing.assert_allclose(statistics.std_D, whole_TD.std(0), rtol=1e-4)


@pytest.mark.parametrize("clip_id", [f"clip{FAILED:02d}", "clip99", ""])
def test_absent_clip_raises_key_error(cache: Path, clip_id: str):
    result = CacheReader(cache).stream("every.int8")
    assert clip_id not in result
    with pytest.raises(KeyError, match="no targets"):
        result[clip_id]
    with pytest.raises(KeyError, match="no targets"):
        CacheReader(cache).metadata("every", clip_id)


def rewrite_first_shard(cache: Path, change) -> None:
    """Rewrites the rows of the first shard's file without updating the marker."""
    layout = Layout.open(cache)
    folder = layout.shards(spec(), "corpus")
    path = Path(folder.path(f"data/{shards.read_marker(folder, 0).data}"))
    rows = stored_rows.read_rows(folder, shards.read_marker(folder, 0), spec())
    path.write_bytes(shards.to_parquet(change(rows), spec()))


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [rows[1], rows[0], *rows[2:]],
        lambda rows: [rows[0], rows[0], *rows[2:]],
        lambda rows: [*rows[1:], rows[0]],
    ],
    ids=["swapped", "repeated", "shifted"],
)
def test_misplaced_row_raises_instead_of_returning_another_clip(cache: Path, change):
    rewrite_first_shard(cache, change)
    result = CacheReader(cache).stream("every.int8")
    wrong = 0
    for index in PRESENT[:10]:
        try:
            frames_TD = result[f"clip{index:02d}"].decode()
        except UserError as error:
            assert "verify --deep --repair" in str(error)  # noqa: PT017
            wrong += 1
        else:
            np.testing.assert_array_equal(frames_TD, stored("int8", index))
    assert wrong


def test_missing_row_raises_instead_of_shifting_its_neighbours(cache: Path):
    rewrite_first_shard(cache, lambda rows: [rows[0], *rows[2:]])
    result = CacheReader(cache).stream("every.int8")
    for index in PRESENT[:10]:
        with pytest.raises(UserError, match=r"has 9 rows, its marker says 10.*coat-cache verify"):
            result[f"clip{index:02d}"]
    np.testing.assert_array_equal(result["clip12"].decode(), stored("int8", 12))


def test_iteration_over_misplaced_rows_raises_an_error(cache: Path):
    rewrite_first_shard(cache, lambda rows: [rows[1], rows[0], *rows[2:]])
    with pytest.raises(UserError, match="coat-cache verify"):
        list(CacheReader(cache).stream("every.int8"))


def test_flipped_bit_is_detected_on_read(cache: Path):
    path = next((cache / "teachers").rglob("data/0000000-*.parquet"))
    group = pq.read_metadata(path).row_group(0)
    column = next(
        group.column(index) for index in range(99) if "int8.frames" in str(group.column(index))
    )
    raw = bytearray(path.read_bytes())
    raw[column.data_page_offset + column.total_compressed_size - 9] ^= 4
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"(?i)crc|checksum|corrupt"):
        CacheReader(cache).stream("every.int8")["clip00"]


def test_forked_workers_share_page_checks(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Each worker used to read the whole row group again: 8 times the bytes of a clip."""
    result = CacheReader(cache).stream("every.int8")
    checks_asked: list[bool] = []
    locate = page_offsets.locate

    def counting(*arguments: Any, check: bool) -> Any:
        checks_asked.append(check)
        return locate(*arguments, check=check)

    monkeypatch.setattr(page_offsets, "locate", counting)
    for expected in (4, 0):  # two workers, one after the other; there are four row groups
        worker = os.fork()
        if not worker:
            checks = 0
            with contextlib.suppress(BaseException):
                checks_asked.clear()
                for index in PRESENT:
                    result[f"clip{index:02d}"]
                checks = sum(checks_asked)
            os._exit(checks)
        _, status = os.waitpid(worker, 0)
        assert os.waitstatus_to_exitcode(status) == expected
    result["clip00"]
    assert checks_asked == [False]


def test_shard_of_other_clips_raises_an_error(cache: Path, tmp_path: Path):
    other = make_cache(tmp_path / "other", clips=19)
    folder = next((cache / "teachers").iterdir()) / "corpus"
    shutil.rmtree(folder)
    shutil.copytree(other.shards(spec(), "corpus").path(""), folder)
    with pytest.raises(UserError, match="not made from the clips"):
        CacheReader(cache).stream("every.int8")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int8", "TEACHER.STREAM"),
        ("every.nosuch", "no stream 'nosuch'; it has fp16"),
        ("nobody.int8", "no teacher 'nobody'; it has every@"),
        ("every@000000000000.int8", "no teacher 'every@000000000000'"),
    ],
)
def test_unknown_stream_name_lists_the_existing_names(cache: Path, name: str, message: str):
    with pytest.raises(UserError, match=message):
        CacheReader(cache).stream(name)


def test_stream_can_be_selected_by_fingerprint(cache: Path):
    result = CacheReader(cache).stream(f"{spec().key}.int8")
    np.testing.assert_array_equal(result["clip00"].decode(), stored("int8", 0))


def test_newer_cache_format_raises_an_error(cache: Path):
    (cache / "cache.json").write_text(json.dumps({"format": 3}))
    with pytest.raises(UserError, match=r"cache format 3.*reads up to 2.*upgrade"):
        CacheReader(cache)


def test_missing_cache_or_corpus_raises_an_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"not a teacher cache.*coat-cache build"):
        CacheReader(tmp_path)
    make_cache(tmp_path)
    with pytest.raises(UserError, match="no corpus 'b'; it has corpus"):
        CacheReader(tmp_path / "cache", corpora=["b"])


def test_edited_spec_raises_an_error(cache: Path):
    path = next((cache / "teachers").glob("*/spec.json"))
    path.write_text(path.read_text().replace('"revision": 1', '"revision": 2'))
    with pytest.raises(UserError, match="the file was edited"):
        CacheReader(cache)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_reader_keeps_no_file_descriptor_open(cache: Path):
    """Each shard used to hold one: 128 for each teacher in each worker, of usually 1,024."""
    reader = CacheReader(cache)
    result = reader.stream("every.int8")
    for index in PRESENT:
        assert len(result[f"clip{index:02d}"].blob)
    names = [path.name for path in cache.rglob("data/*.parquet")]
    opened = []
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            opened.append(handle.readlink().name)
    assert names
    assert not set(names) & set(opened)


def test_durations_and_coverage_are_looked_up_without_reading_rows(cache: Path, monkeypatch):
    """Each duration used to cost a read and a check of the frames."""
    teacher = CacheReader(cache).teacher("every")
    monkeypatch.setattr(teacher, "row", None)
    key_N = clip_keys([*(f"clip{index:02d}" for index in range(20)), "other"])
    expected = [1.0 + index if index != FAILED else np.nan for index in range(20)] + [np.nan]
    np.testing.assert_array_equal(teacher.durations(key_N), expected)
    np.testing.assert_array_equal(teacher.covers(key_N), ~np.isnan(expected))
    assert teacher.digest == CacheReader(cache).teacher("every").digest
