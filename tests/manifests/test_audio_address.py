"""Tests for clips that name a part of a file: a byte range or a row of Parquet, local or remote."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from manifests import audio
from manifests.audio_address import ByteRange, ParquetRow, check_file_name, split_address
from manifests.clips import Clip
from manifests.errors import AudioError, StoreError, UserError
from tests.manifests.reference_audio import noise
from tests.manifests.web_folder import Ranged, serve


def encode_noise(seed: int, form: str = "FLAC") -> tuple[bytes, np.ndarray]:
    """Returns the bytes of a file, and the samples that soundfile reads from them."""
    sink = io.BytesIO()
    soundfile.write(sink, noise(0.2, 16000, seed=seed), 16000, format=form)
    return sink.getvalue(), soundfile.read(io.BytesIO(sink.getvalue()), dtype="float32")[0]


def clip(uri: str, **fields: Any) -> Clip:
    return Clip(clip_id="a", uri=uri, **fields)


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, list[tuple[ByteRange, np.ndarray]]]:
    """Three audio files concatenated in one file, with other bytes between them."""
    data, parts = b"junk", []
    for seed, form in enumerate(("FLAC", "WAV", "OGG")):
        content, samples = encode_noise(seed, form)
        parts.append((ByteRange(len(data), len(data) + len(content) - 1), samples))
        data += content + b"\0" * 100
    path = tmp_path / "packed.bin"
    path.write_bytes(data)
    return path, parts


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    with serve(tmp_path) as address:
        yield address


def test_byte_range_of_a_local_file_decodes_like_a_separate_file(packed: Any, tmp_path: Path):
    path, parts = packed
    for index, (part, samples) in enumerate(parts):
        whole = audio.decode(clip(f"{path}{part}"))
        own = tmp_path / f"{index}.audio"
        own.write_bytes(path.read_bytes()[part.first : part.last + 1])
        assert whole.digest == audio.decode(clip(str(own))).digest
        assert not whole.warnings
        if index < 2:
            assert np.array_equal(whole.samples, samples)
            cut = audio.decode(clip(f"{path}{part}", offset=0.05, duration=0.1))
            assert np.array_equal(cut.samples, samples[800:2400])


def test_byte_range_on_a_web_server_is_decoded(
    packed: Any, web: str, monkeypatch: pytest.MonkeyPatch
):
    path, ((part, samples), *_) = packed
    address = f"{web}/{path.name}"
    assert np.array_equal(audio.decode(clip(f"{address}{part}")).samples, samples)
    (path.parent / "a b%.flac").write_bytes(path.read_bytes()[part.first : part.last + 1])
    assert np.array_equal(audio.decode(clip(f"{web}/a b%25.flac")).samples, samples)
    for uri, reason in (
        (f"{web}/none.flac", "missing"),
        (f"{address}#bytes=999999-1000000", "unreadable"),
        (f"{address}#bytes=10-1000000", "unreadable"),
        (f"{address}#bytes=0-999999999999", "unreadable"),
    ):
        with pytest.raises(AudioError) as error:
            audio.decode(clip(uri))
        assert error.value.reason == reason
    for uri in (f"{web}/busy.wav", f"{web}/moved.wav", "http://127.0.0.1:9/a.wav"):
        with pytest.raises(StoreError, match="could not be fetched"):
            audio.decode(clip(uri))
    cut = {"offset": 0.05, "duration": 0.1}
    assert np.array_equal(audio.decode(clip(f"{address}{part}", **cut)).samples, samples[800:2400])
    monkeypatch.setattr(Ranged, "ranges", False)
    whole = f"{web}/a b%25.flac"
    assert np.array_equal(audio.decode(clip(whole, **cut)).samples, samples[800:2400])
    with pytest.raises(AudioError, match="ignores ranges"):
        audio.decode(clip(f"{address}{part}"))


def test_byte_range_in_an_object_store_is_decoded(packed: Any, s3: Any):
    path, ((part, samples), *_) = packed
    with s3.open_output_stream("data/packed #1.bin") as stream:
        stream.write(path.read_bytes())
    uri = "s3://data/packed #1.bin"
    assert np.array_equal(audio.decode(clip(f"{uri}{part}")).samples, samples)
    with pytest.raises(AudioError, match="beyond the file's end"):
        audio.decode(clip(f"{uri}#bytes=10-99999"))
    with pytest.raises(AudioError) as error:
        audio.decode(clip(f"s3://data/nothing.tar{part}"))
    assert error.value.reason == "missing"


def test_row_of_a_parquet_column_is_decoded(tmp_path: Path):
    both = [encode_noise(seed) for seed in range(5)]
    audios = [{"bytes": data, "path": None} for data, _ in both]
    audios[4] = {"bytes": None, "path": "x"}
    path = tmp_path / "a.parquet"
    table = pa.table({"my audio": audios, "plain": [data for data, _ in both], "n": range(5)})
    pq.write_table(table, path, row_group_size=2)
    for index, (_, samples) in enumerate(both[:4]):
        for column in ("my audio", "plain"):
            uri = f"{path}{ParquetRow(index // 2, index % 2, column)}"
            assert split_address(uri) == (str(path), ParquetRow(index // 2, index % 2, column))
            assert np.array_equal(audio.decode(clip(uri)).samples, samples)
    for row in (
        ParquetRow(3, 0, "plain"),
        ParquetRow(2, 1, "plain"),
        ParquetRow(2, 0, "my audio"),
        ParquetRow(0, 0, "n"),
        ParquetRow(0, 0, "none"),
    ):
        with pytest.raises(AudioError):
            audio.decode(clip(f"{path}{row}"))


@pytest.mark.parametrize(
    "part",
    ["#bytes=", "#bytes=5", "#bytes=5-4", "#bytes=-5-9", "#bytes=0-\u0663", "#bytes=01-2",
     "#bytes=1-2/a", "#bytes=0-1e3", f"#bytes=0-{10**17}", "#bytes=1-2,4-5", "#row_group=0",
     "#row_group=0&row=-1&column=a", "#row_group=0&row=1&column=", "#row_group=0&row=1&column=a b"],
)  # fmt: skip
def test_malformed_part_of_an_address_raises_an_error(part: str):
    with pytest.raises(UserError, match="malformed"):
        clip(f"/data/a.tar{part}")


def test_file_names_with_a_hash_are_not_parsed_as_parts():
    for uri in ("/a/#1.wav", "/a/b#c=2.wav", "s3://bucket/#/x.wav"):
        assert split_address(uri) == (uri, None)
        check_file_name(uri)
    with pytest.raises(UserError, match="rename"):
        check_file_name("/a/b#bytes=0-1")


@pytest.mark.parametrize(
    "uri",
    ["http://user:key@host/a.wav", "https://host?x/a.wav", "ftp://host/a.wav", "http:///a.wav",
     "s3://b?endpoint_override=h/a.tar#bytes=0-1"],
)  # fmt: skip
def test_addresses_with_credentials_or_options_raise_an_error(uri: str):
    with pytest.raises(UserError, match="refused"):
        clip(uri)
