"""Tests for rows of Parquet without audio, and for columns of every type."""

from __future__ import annotations

import datetime
import decimal
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import audio, cli
from manifests.corpus import corpus
from manifests.corpus.sources import parquet
from manifests.corpus.sources.parquet_footer import Footer
from manifests.errors import UserError
from manifests.storage import Folder
from tests.manifests.corpus.test_parquet import read, wav
from tests.manifests.corpus.test_tars import flac

CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
WITHOUT_AUDIO: list[Any] = [
    {"bytes": b"", "path": "own.wav"},
    {"bytes": b"", "path": None},
    {"bytes": None, "path": None},
    {"bytes": None, "path": ""},
    {"bytes": None, "path": "empty.wav"},
    None,
]
GOOD = {"bytes": flac(0), "path": "a.flac"}


def write(path: Path, cells: list[Any], **more: Any) -> Path:
    """Writes a file with row groups of two rows; the id of a row is its number."""
    ids = [f"row {number}" for number in range(len(cells))]
    table = pa.table({"audio": pa.array(cells, CELL), "id": ids, **more})
    pq.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize("cell", WITHOUT_AUDIO)
@pytest.mark.parametrize("form", ["local", "durations stated", "remote"])
def test_rows_without_audio_are_skipped_in_any_position(
    tmp_path: Path, s3: object, form: str, cell: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "own.wav").write_bytes(wav(7))
    (tmp_path / "empty.wav").write_bytes(b"")
    cells = [cell, GOOD, cell, cell, GOOD, cell]
    more = {"duration": [0.1] * len(cells)} if form == "durations stated" else {}
    source = str(write(tmp_path / "a.parquet", cells, **more))
    if form == "remote" and cell != WITHOUT_AUDIO[4]:
        Folder("s3://data/rows").write_atomic("a.parquet", Path(source).read_bytes())
        source = "s3://data/rows/a.parquet"
    clips = read(source)
    assert [clip.clip_id for clip in clips] == ["row 1", "row 4"]
    assert [audio.decode(clip).seconds for clip in clips] == [0.1, 0.1]
    assert "skipped 4 rows without audio" in caplog.text
    assert "the first: " in caplog.text
    assert f"{source}#row_group=0&row=0&column=audio" in caplog.text
    if form == "local":
        with pytest.raises(UserError, match="holds no audio, only 3 rows without audio"):
            read(write(tmp_path / "all.parquet", [cell] * 3))


@pytest.mark.parametrize("kind", [pa.binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_empty_bytes_in_a_plain_column_are_skipped(
    tmp_path: Path, kind: pa.DataType, caplog: pytest.LogCaptureFixture
) -> None:
    column = pa.array([b"", flac(0), None])
    column = column if kind == pa.binary() else column.dictionary_encode()
    pq.write_table(pa.table({"audio": column, "duration": [0.1] * 3}), tmp_path / "a.parquet")
    (clip,) = read(tmp_path)
    assert clip.uri.endswith("row=1&column=audio")
    assert "skipped 2 rows without audio" in caplog.text


def test_copied_rows_without_audio_are_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(
        tmp_path / "a.parquet",
        [GOOD, *[each for each in WITHOUT_AUDIO if each != WITHOUT_AUDIO[4]], GOOD],
    )
    clips = read(f"hf:{tmp_path}", tmp_path / "audio")
    assert [clip.clip_id for clip in clips] == ["row 0", "row 6"]
    assert "skipped 5 rows without audio" in caplog.text


def write_with_arrow(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path)


def write_with_polars(table: pa.Table, path: Path) -> None:
    polars.DataFrame(polars.from_arrow(table)).write_parquet(path)


def write_with_duckdb(table: pa.Table, path: Path) -> None:
    duckdb.from_arrow(table).write_parquet(str(path))


@pytest.mark.parametrize("write_table", [write_with_arrow, write_with_polars, write_with_duckdb])
@pytest.mark.parametrize("size", [5, 50_000])
def test_footer_states_whether_values_are_empty(
    tmp_path: Path, write_table: Callable[[pa.Table, Path], None], size: int
) -> None:
    path = tmp_path / "a.parquet"
    for values, expected in (
        ([os.urandom(size), b"", os.urandom(size)], True),
        ([os.urandom(size), os.urandom(size)], False),
    ):
        write_table(pa.table({"x": [1] * len(values), "audio": values}), path)
        assert Footer(pa.OSFile(str(path))).has_empty_values(0, "audio") is expected
    pq.write_table(pa.table({"audio": [os.urandom(size)]}), path, write_statistics=False)
    assert Footer(pa.OSFile(str(path))).has_empty_values(0, "audio") is None


def test_remote_audio_is_read_only_if_the_footer_has_no_statistics(
    tmp_path: Path, s3: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_groups, original = [], parquet.read_audio
    monkeypatch.setattr(
        parquet, "read_audio", lambda *given: read_groups.append(given[1]) or original(*given)
    )
    for name, statistics in (("told", True), ("untold", False)):
        table = pa.table({"audio": [flac(n, 1.0) for n in range(4)]})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, write_statistics=statistics)
        data = (tmp_path / "a.parquet").read_bytes()
        Folder(f"s3://data/{name}").write_atomic("a.parquet", data)
        for _ in range(2):
            cli.build(f"s3://data/{name}", str(tmp_path / name))
        assert read_groups == ([] if statistics else [0, 1])


DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 0, 250)
COLUMNS: dict[str, tuple[Any, pa.DataType, Any]] = {
    "day": (DAY, pa.date32(), "2024-02-29"),
    "day64": (DAY, pa.date64(), "2024-02-29"),
    "moment": (MOMENT, pa.timestamp("us"), "2024-02-29T12:30:00.000250"),
    "nanoseconds": (1709209800000000123, pa.timestamp("ns"), "2024-02-29T12:30:00"),
    "zone": (MOMENT, pa.timestamp("ms", "Europe/Berlin"), "2024-02-29T13:30:00+01:00"),
    "clock": (datetime.time(1, 2, 3), pa.time64("ns"), "01:02:03"),
    "span": (datetime.timedelta(seconds=90), pa.duration("ns"), 90.0),
    "price": (decimal.Decimal("12.340"), pa.decimal128(9, 3), "12.340"),
    "huge": (decimal.Decimal(10) ** 30, pa.decimal256(40, 0), "1" + "0" * 30),
    "word": ("calm", pa.dictionary(pa.int8(), pa.string()), "calm"),
    "days": ([DAY, None], pa.list_(pa.date32()), ["2024-02-29", None]),
    "fixed": ([1, 2], pa.list_(pa.int8(), 2), [1, 2]),
    "pairs": ([("a", DAY)], pa.map_(pa.string(), pa.date32()), [["a", "2024-02-29"]]),
    "by": (
        {"when": MOMENT, "who": ["x"], "mark": b"1"},
        pa.struct(
            [("when", pa.timestamp("ns")), ("who", pa.list_(pa.string())), ("mark", pa.binary())]
        ),
        {"when": "2024-02-29T12:30:00.000250", "who": ["x"]},
    ),
    "true": (True, pa.bool_(), True),
    "half": (0.5, pa.float32(), 0.5),
    "unknown": (float("nan"), pa.float64(), None),
    "picture": ({"bytes": b"1", "path": "x.png"}, CELL, None),
    "mark": (b"1", pa.binary(), None),
    "marks": ([b"1"], pa.list_(pa.binary()), None),
    "hash": (b"1234", pa.binary(4), None),
    "nothing": (None, pa.null(), None),
}  # fmt: skip


def test_columns_of_every_type_become_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pa.table(
        {
            "audio": [flac(0)],
            **{name: pa.array([value], kind) for name, (value, kind, _) in COLUMNS.items()},
            "uuid": pa.ExtensionArray.from_storage(
                pa.uuid(), pa.array([uuid.UUID(int=5).bytes], pa.binary(16))
            ),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    built = corpus.build(read(tmp_path), tmp_path / "corpus")
    (clip,) = built.clips()
    expected = {name: label for name, (_, _, label) in COLUMNS.items() if label is not None}
    assert clip.labels == {**expected, "uuid": str(uuid.UUID(int=5))}
    assert "left out the columns by.mark, hash, mark, marks, picture;" in caplog.text


def test_dates_and_numbers_match_the_package_datasets(tmp_path: Path) -> None:
    chosen = ("day", "moment", "price", "clock", "days", "word", "fixed", "half", "true")
    columns = {name: pa.array([COLUMNS[name][0]], COLUMNS[name][1]) for name in chosen}
    columns["duration"] = pa.array([decimal.Decimal("0.50")], pa.decimal128(5, 2))
    cells = pa.array([GOOD], CELL)
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"audio": cells, **columns}), tmp_path / "set/a.parquet")
    (clip,) = read(tmp_path / "set")
    (row,) = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "set/a.parquet"), split="train",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    theirs = {name: row[name] for name in chosen}
    theirs |= {name: theirs[name].isoformat() for name in ("day", "moment", "clock")}
    theirs |= {"price": str(row["price"]), "days": [row["days"][0].isoformat(), None]}
    assert clip.labels == theirs
    assert clip.estimated_duration == float(row["duration"])
    (copied,) = read(f"hf:{tmp_path}/set", tmp_path / "audio")
    assert (copied.labels, copied.estimated_duration) == (clip.labels, 0.5)


def test_second_audio_column_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = pa.array([GOOD], CELL)
    lists = pa.array([[GOOD]], pa.list_(CELL))
    pq.write_table(
        pa.table({"audio": cells, "noisy": cells, "takes": lists, "audio.of": ["x"]}),
        tmp_path / "a.parquet",
    )
    selected, original = [], pq.ParquetFile.read_row_group

    def read_row_group(self: pq.ParquetFile, group: int, *, columns: list[str]) -> pa.Table:
        selected.extend(columns)
        return original(self, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    (clip,) = read(tmp_path)
    assert clip.labels == {"audio.of": "x"}
    assert set(selected) == {"audio.of", "audio.bytes", "audio.path"}
    assert "left out the columns noisy, takes;" in caplog.text
    pq.write_table(pa.table({"takes": lists}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="found none among the columns takes"):
        read(tmp_path)


def test_date_out_of_range_raises_an_error(tmp_path: Path) -> None:
    late = pa.array([2**60], pa.timestamp("us"))
    pq.write_table(pa.table({"audio": [flac(0)], "when": late}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="date or time in row group 0 that cannot be read"):
        read(tmp_path)
