"""Tests reading a cache: by clip, in storage order, and errors."""

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
def test_each_clip_has_its_own_frames(cache: Path, codec: str):
    result = CacheReader(cache).stream(f"every.{codec}")
    assert len(result) == len(PRESENT)
    for index in np.random.default_rng(0).permutation(PRESENT):
        np.testing.assert_array_equal(result[f"clip{index:02d}"].decode(), stored(codec, index))
        assert result.duration(f"clip{index:02d}") == 1.0 + index


@pytest.mark.parametrize("codec", KINDS)
def test_in_storage_order(cache: Path, codec: str):
    result = CacheReader(cache).stream(f"every.{codec}")
    seen = [(clip_id, encoded.decode()) for clip_id, encoded in result]
    assert [clip_id for clip_id, _ in seen] == [f"clip{n:02d}" for n in PRESENT] == result.ids
    for (_, frames_TD), index in zip(seen, PRESENT, strict=True):
        np.testing.assert_array_equal(frames_TD, stored(codec, index))


def test_frames_outlive_what_they_were_read_from(cache: Path):
    result = CacheReader(cache).stream("every.int8")
    kept = dict(result)
    del result
    for index in PRESENT:
        np.testing.assert_array_equal(kept[f"clip{index:02d}"].decode(), stored("int8", index))


def test_several_streams_in_one_pass(cache: Path):
    for clip_id, streams in CacheReader(cache).teacher("every").scan(["int8", "pitch"]):
        index = int(clip_id[4:])
        for codec in ("int8", "pitch"):
            np.testing.assert_array_equal(streams[codec].decode(), stored(codec, index))


def test_readers_can_be_sent_to_spawned_workers(cache: Path):
    reader = CacheReader(cache, corpora=["corpus"], check_pages=False)
    first, second = reader.stream("every.int8"), reader.stream("every.pitch")
    assert first["clip07"].num_frames == 17  # what is open and kept does not travel
    sent = pickle.dumps((first, second))
    assert len(sent) < 20_000
    copy, other = pickle.loads(sent)
    np.testing.assert_array_equal(copy["clip07"].decode(), stored("int8", 7))
    assert copy.teacher.spec.key == first.teacher.spec.key
    assert copy.teacher is other.teacher
    assert copy.teacher is not first.teacher


def test_words_and_failures(cache: Path):
    reader = CacheReader(cache)
    assert reader.metadata("every", "clip07") == {"text": "clip 7 ♪"}
    (failure,) = reader.teacher("every").failures()
    assert failure.clip_id == f"clip{FAILED:02d}"


def test_statistics_are_those_of_all_frames(cache: Path):
    whole_TD = np.concatenate([frames("int8", seed=index, count=10 + index) for index in PRESENT])
    statistics = CacheReader(cache).stream("every.int8").statistics()
    assert statistics.num_frames == len(whole_TD)
    np.testing.assert_allclose(statistics.mean_D, whole_TD.mean(0), atol=1e-5)
    np.testing.assert_allclose(statistics.std_D, whole_TD.std(0), rtol=1e-4)


@pytest.mark.parametrize("clip_id", [f"clip{FAILED:02d}", "clip99", ""])
def test_an_absent_clip_is_a_key_error(cache: Path, clip_id: str):
    result = CacheReader(cache).stream("every.int8")
    assert clip_id not in result
    with pytest.raises(KeyError, match="no targets"):
        result[clip_id]
    with pytest.raises(KeyError, match="no targets"):
        CacheReader(cache).metadata("every", clip_id)


def plant(cache: Path, change) -> None:
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
def test_a_misplaced_row_is_never_used_for_another_clip(cache: Path, change):
    plant(cache, change)
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


def test_a_missing_row_does_not_shift_its_neighbours(cache: Path):
    plant(cache, lambda rows: [rows[0], *rows[2:]])
    result = CacheReader(cache).stream("every.int8")
    for index in PRESENT[:10]:
        with pytest.raises(UserError, match=r"has 9 rows, its marker says 10.*coat-cache verify"):
            result[f"clip{index:02d}"]
    np.testing.assert_array_equal(result["clip12"].decode(), stored("int8", 12))


def test_a_scan_of_wrong_rows_is_an_error(cache: Path):
    plant(cache, lambda rows: [rows[1], rows[0], *rows[2:]])
    with pytest.raises(UserError, match="coat-cache verify"):
        list(CacheReader(cache).stream("every.int8"))


def test_a_flipped_bit_is_detected_when_reading(cache: Path):
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


def test_forked_workers_check_each_page_once_together(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Each worker read the whole row group again for its checksum: 8 times the bytes of a clip."""
    result = CacheReader(cache).stream("every.int8")
    asked: list[bool] = []
    locate = page_offsets.locate

    def counting(*arguments: Any, check: bool) -> Any:
        asked.append(check)
        return locate(*arguments, check=check)

    monkeypatch.setattr(page_offsets, "locate", counting)
    for expected in (4, 0):  # two workers, one after the other; there are four row groups
        worker = os.fork()
        if not worker:
            checks = 0
            with contextlib.suppress(BaseException):
                asked.clear()
                for index in PRESENT:
                    result[f"clip{index:02d}"]
                checks = sum(asked)
            os._exit(checks)
        _, status = os.waitpid(worker, 0)
        assert os.waitstatus_to_exitcode(status) == expected
    result["clip00"]
    assert asked == [False]


def test_a_shard_of_other_clips_is_refused(cache: Path, tmp_path: Path):
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
def test_unknown_names_are_answered_with_the_known(cache: Path, name: str, message: str):
    with pytest.raises(UserError, match=message):
        CacheReader(cache).stream(name)


def test_a_version_by_its_fingerprint(cache: Path):
    result = CacheReader(cache).stream(f"{spec().key}.int8")
    np.testing.assert_array_equal(result["clip00"].decode(), stored("int8", 0))


def test_a_newer_format_is_refused(cache: Path):
    (cache / "cache.json").write_text(json.dumps({"format": 3}))
    with pytest.raises(UserError, match=r"cache format 3.*reads up to 2.*upgrade"):
        CacheReader(cache)


def test_no_cache_at_all(tmp_path: Path):
    with pytest.raises(UserError, match=r"not a teacher cache.*coat-cache build"):
        CacheReader(tmp_path)
    make_cache(tmp_path)
    with pytest.raises(UserError, match="no corpus 'b'; it has corpus"):
        CacheReader(tmp_path / "cache", corpora=["b"])


def test_an_edited_spec_is_refused(cache: Path):
    path = next((cache / "teachers").glob("*/spec.json"))
    path.write_text(path.read_text().replace('"revision": 1', '"revision": 2'))
    with pytest.raises(UserError, match="the file was edited"):
        CacheReader(cache)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_an_open_shard_needs_no_file_handle(cache: Path):
    """One for each shard before: 128 for each teacher in each worker, of the usual 1,024."""
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


def test_durations_and_coverage_of_many_clips_in_one_look_up(cache: Path, monkeypatch):
    """Frames were read and checked for each duration."""
    teacher = CacheReader(cache).teacher("every")
    monkeypatch.setattr(teacher, "row", None)
    key_N = clip_keys([*(f"clip{index:02d}" for index in range(20)), "other"])
    expected = [1.0 + index if index != FAILED else np.nan for index in range(20)] + [np.nan]
    np.testing.assert_array_equal(teacher.durations(key_N), expected)
    np.testing.assert_array_equal(teacher.covers(key_N), ~np.isnan(expected))
    assert teacher.digest == CacheReader(cache).teacher("every").digest
