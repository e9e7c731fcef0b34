"""Tests for clips of long files: few bytes are read, and samples match the whole file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import fs

from manifests import audio
from manifests.clips import Clip
from manifests.decoders import ffmpeg as decoder
from manifests.decoders import ranged, seeking
from tests.manifests.reference_audio import decode_with_ffmpeg, ffmpeg, write_reference

SECONDS = 45.0
FORMS = {
    "wav": "-c:a pcm_s16le",
    "flac": "-c:a flac",
    "oga": "-c:a flac",
    "mp3": "-c:a libmp3lame -b:a 64k",
    "vbr.mp3": "-c:a libmp3lame -q:a 6",
    "noxing.mp3": "-c:a libmp3lame -b:a 64k -write_xing 0",
    "44100.mp3": "-ar 44100 -c:a libmp3lame -b:a 80k",
    "ogg": "-c:a libvorbis",
    "celt.opus": "-c:a libopus -b:a 96k -application audio",
    "silk.opus": "-c:a libopus -b:a 14k -application voip",
    "m4a": "-c:a aac -b:a 96k",
    "alac.m4a": "-c:a alac",
}
READS_ALL = ("vbr.mp3", "noxing.mp3", "silk.opus", "m4a")
"""Forms that are read from the start of the file, because seeking or the decoder needs that."""

MAX_SHARE_READ = {"ogg": 1.01, "oga": 0.6, "celt.opus": 0.8}
"""Some pages of an Ogg file are checked first, which is a large share of these small files."""


@pytest.fixture(scope="module")
def long_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reference(tmp_path_factory.mktemp("long") / "long.wav", SECONDS)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the requests that ranged reading makes, in bytes."""
    sizes: list[int] = []
    original = ranged._open_object

    def counting(file: str, part: object) -> ranged._Blocks:
        blocks = original(file, part)  # pyright: ignore[reportArgumentType]
        read = blocks.read

        def counted(position: int, count: int) -> bytes:
            sizes.append(count)
            return read(position, count)

        blocks.read = counted
        return blocks

    monkeypatch.setattr(ranged, "_open_object", counting)
    monkeypatch.setattr(ranged, "SMALL", 0)
    monkeypatch.setattr(ranged, "FIRST_FETCH", 1 << 14)
    return sizes


@pytest.mark.parametrize("form", FORMS)
def test_clips_match_the_whole_file_and_read_few_bytes(
    tmp_path: Path, long_wav: Path, form: str, s3: fs.FileSystem, fetched: list[int]
):
    path = tmp_path / f"x.{form}"
    ffmpeg("-i", long_wav, *FORMS[form].split(), path)
    whole = audio.decode(Clip(clip_id="x", uri=str(path)))
    rate = whole.sample_rate
    assert not whole.warnings
    original = decode_with_ffmpeg(path, rate)
    assert len(whole.samples) == pytest.approx(len(original), abs=rate * 0.01)
    size = min(len(original), len(whole.samples))
    assert np.abs(whole.samples[:size] - original[:size]).max() < 2e-5
    key = f"data/long/{form}"
    with s3.open_output_stream(key) as stored:
        stored.write(path.read_bytes())
    places = random.Random(form)
    cuts = [(places.uniform(0, SECONDS - 4), places.choice([0.5, 3.0])) for _ in range(4)]
    cuts += [(0.0, 2.0), (43.0, 30.0), (42.0, None)]
    for uri in (str(path), f"s3://{key}"):
        for offset, duration in cuts:
            wave = audio.decode(Clip(clip_id="x", uri=uri, offset=offset, duration=duration))
            start = round(offset * rate)
            stop = None if duration is None else start + round(duration * rate)
            assert np.array_equal(wave.samples, whole.samples[start:stop]), (uri, offset, duration)
    assert sum(fetched) <= path.stat().st_size  # Every byte at most once, for all of the cuts.
    ranged._kept.clear()
    seeking._seen.clear()
    fetched.clear()
    audio.decode(Clip(clip_id="x", uri=f"s3://{key}", offset=30.0, duration=2.0))
    if form not in READS_ALL:
        assert sum(fetched) < MAX_SHARE_READ.get(form, 0.35) * path.stat().st_size


def test_replaced_remote_file_is_fetched_again(
    tmp_path: Path, s3: fs.FileSystem, fetched: list[int]
):
    for seed in (1, 2):
        path = write_reference(tmp_path / f"{seed}.wav", 5.0 + seed, seed=seed)
        with s3.open_output_stream("data/long/replaced.wav") as stored:
            stored.write(path.read_bytes())
        cut = {"clip_id": "x", "offset": 1.0, "duration": 1.0}
        wave = audio.decode(Clip(uri="s3://data/long/replaced.wav", **cut))
        assert wave.digest == audio.decode(Clip(uri=str(path), **cut)).digest


@pytest.mark.parametrize("form", ["ogg", "mp3"])
def test_clips_of_concatenated_and_damaged_files_match_the_whole_file(
    tmp_path: Path, long_wav: Path, form: str
):
    """The timestamps of such files do not give sample positions, so no packet is skipped."""
    path = tmp_path / f"x.{form}"
    codec = FORMS[form].split()
    ffmpeg("-i", long_wav, "-t", "22", *codec, tmp_path / f"a.{form}")
    ffmpeg("-i", long_wav, "-ss", "22", *codec, tmp_path / f"b.{form}")
    first, second = ((tmp_path / f"{name}.{form}").read_bytes() for name in "ab")
    middle = len(first) // 2
    hole = first[:middle] + bytes(3000) + first[middle + 3000 :]
    for data in (first + second, hole):
        path.write_bytes(data)
        whole = audio.decode(Clip(clip_id="x", uri=str(path)))
        for offset in (5.0, 20.0, 38.0):
            if offset + 2 < whole.seconds:
                cut = audio.decode(Clip(clip_id="x", uri=str(path), offset=offset, duration=2.0))
                start = round(offset * whole.sample_rate)
                stop = start + 2 * whole.sample_rate
                assert np.array_equal(cut.samples, whole.samples[start:stop])


@pytest.mark.parametrize("form", ["m4a", "silk.opus", "vbr.mp3"])
def test_consecutive_blocks_of_clips_are_decoded_in_one_pass(
    tmp_path: Path, long_wav: Path, form: str, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / f"x.{form}"
    ffmpeg("-i", long_wav, *FORMS[form].split(), path)
    whole = audio.decode(Clip(clip_id="x", uri=str(path)))
    starts = []
    original = decoder._start

    def counting(*arguments: Any, **options: Any) -> Any:
        starts.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(decoder, "_start", counting)
    for block in range(5):
        cuts = [
            Clip(clip_id="x", uri=str(path), offset=8 * block + 2 * index, duration=2.0)
            for index in range(4)
        ]
        for cut, wave in zip(cuts, audio.decode_many(cuts), strict=True):
            start = round(cut.offset * whole.sample_rate)
            assert isinstance(wave, audio.Waveform)
            assert np.array_equal(
                wave.samples, whole.samples[start : start + 2 * whole.sample_rate]
            )
    assert len(starts) == 1
    early = audio.decode(Clip(clip_id="x", uri=str(path), offset=1.0, duration=2.0))
    assert np.array_equal(early.samples, whole.samples[whole.sample_rate : 3 * whole.sample_rate])
