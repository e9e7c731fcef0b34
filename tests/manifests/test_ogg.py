"""Tests Vorbis in Ogg against libvorbis (through libsndfile), which FFmpeg does not equal for short
and for chained files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests import audio
from manifests.clips import Clip
from tests.manifests.reference_audio import ffmpeg, noise


def write_ogg(path: Path, seconds: float, *, rate: int, quality: int = 4) -> np.ndarray:
    """Writes Vorbis, and returns the samples that libvorbis decodes."""
    wave = path.with_suffix(".wav")
    soundfile.write(wave, noise(seconds, rate=rate), rate)
    ffmpeg("-i", wave, "-c:a", "libvorbis", "-q:a", str(quality), path)
    samples, _ = soundfile.read(path, dtype="float32")
    assert len(samples) == round(seconds * rate), "the reference is wrong"
    return samples


def decode(path: Path, **fields: float) -> np.ndarray:
    return audio.decode(Clip(clip_id="a", uri=str(path), **fields)).samples


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("seconds", [0.03, 0.1, 0.25, 0.4, 0.7712, 0.9, 1.4, 3.1])
def test_vorbis_has_the_samples_of_libvorbis(tmp_path: Path, seconds: float, rate: int):
    """FFmpeg 8 omits or adds up to a block if all audio is on one page of the file."""
    path = tmp_path / "a.ogg"
    expected = write_ogg(path, round(seconds * rate) / rate, rate=rate)
    samples = decode(path)
    assert len(samples) == len(expected)
    assert np.allclose(samples, expected, atol=1e-5)


@pytest.mark.parametrize("seconds", [(0.2, 0.2, 0.2), (2.0, 2.0), (0.3, 2.5, 0.1, 4.0)])
def test_chained_vorbis_has_the_samples_of_its_links(tmp_path: Path, seconds: tuple[float, ...]):
    """FFmpeg decodes the links with the first one's codebooks, and overlaps their blocks."""
    links = [
        write_ogg(tmp_path / f"{number}.ogg", length, rate=16_000, quality=number * 3)
        for number, length in enumerate(seconds)
    ]
    path, expected = tmp_path / "chained.ogg", np.concatenate(links)
    path.write_bytes(b"".join((tmp_path / f"{n}.ogg").read_bytes() for n in range(len(links))))
    whole = decode(path)
    assert len(whole) == len(expected)
    assert np.allclose(whole, expected, atol=1e-5)
    for offset in (0.1, seconds[0] - 0.05, seconds[0] + 0.05):
        start = round(offset * 16_000)
        assert np.array_equal(decode(path, offset=offset, duration=0.2), whole[start:][:3200])


def test_repeated_vorbis_link_is_decoded_alike_each_time(tmp_path: Path):
    expected = write_ogg(tmp_path / "one.ogg", 1.9, rate=22_050)
    path = tmp_path / "chained.ogg"
    path.write_bytes((tmp_path / "one.ogg").read_bytes() * 3)
    samples = decode(path)
    assert len(samples) == 3 * len(expected)
    assert np.allclose(samples, np.tile(expected, 3), atol=1e-5)
