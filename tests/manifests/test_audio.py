"""Tests for reading audio: formats, exact offsets, and every kind of bad file."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from manifests import audio
from manifests.audio import AudioError
from manifests.clips import Clip

RATE = 16_000


def tone(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 + 150 * time) * time)).astype(np.float32)


def clip(path: Path | str, **fields) -> Clip:
    return Clip(clip_id="x", uri=str(path), **fields)


def encode(path: Path, samples: np.ndarray, codec: str, rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_16", 1e-4), ("wav", "PCM_24", 1e-6), ("wav", "PCM_32", 1e-6),
        ("wav", "FLOAT", 0), ("wav", "DOUBLE", 0), ("flac", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 0.05), ("ogg", "OPUS", 0.05), ("mp3", "MPEG_LAYER_III", 0.05),
        ("aiff", "PCM_16", 1e-4), ("au", "PCM_16", 1e-4),
    ],
)  # fmt: skip
def test_decode_reads_every_format_of_libsndfile(
    tmp_path: Path, suffix: str, subtype: str, tolerance: float
):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(), RATE, subtype=subtype)
    wave = audio.decode(clip(path))
    received = audio.resample(wave, RATE)[: len(tone())]
    assert len(received) == pytest.approx(len(tone()), abs=0.02 * RATE)
    middle = slice(RATE // 2, RATE)
    assert np.abs(received[middle] - tone()[middle]).max() <= tolerance


def test_m4a_is_decoded_by_ffmpeg(tmp_path: Path):
    path = tmp_path / "tone.m4a"
    encode(path, tone(rate=44_100), "aac", 44_100)
    wave = audio.decode(clip(path))
    assert wave.sample_rate == 44_100
    middle = slice(22_050, 44_100)
    assert np.abs(wave.samples[middle] - tone(rate=44_100)[middle]).mean() < 0.02
    part = audio.decode(clip(path, offset=0.5, duration=0.25))
    expected = wave.samples[22_050 : 22_050 + 11_025]
    assert np.array_equal(part.samples, expected)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 96_000, 128_000, 384_000])
def test_load_resamples_from_any_rate(tmp_path: Path, rate: int):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate=rate), rate)
    received = audio.load(clip(path), RATE)
    assert len(received) == pytest.approx(2 * RATE, abs=2)
    middle = slice(RATE // 4, RATE // 2)
    assert np.abs(received[middle] - tone()[middle]).max() < 2e-3


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_channels_are_averaged_to_mono(tmp_path: Path, channels: int):
    path = tmp_path / "many.wav"
    rng = np.random.default_rng(channels)
    samples = rng.uniform(-1, 1, (3_000, channels)).astype(np.float32)
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    assert np.allclose(audio.decode(clip(path)).samples, samples.mean(1), atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize(
    ("offset", "duration"), [(0.0, 0.1), (0.12345, 0.5), (1.5, None), (1.85, 0.1)]
)
def test_clip_at_an_offset_has_the_exact_samples_of_the_file(
    tmp_path: Path, suffix: str, offset: float, duration: float | None
):
    path = tmp_path / f"tone.{suffix}"
    kind = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    soundfile.write(path, tone(rate=48_000), 48_000, **kind)
    whole = audio.decode(clip(path)).samples
    part = audio.decode(clip(path, offset=offset, duration=duration)).samples
    start = round(offset * 48_000)
    stop = len(whole) if duration is None else start + round(duration * 48_000)
    assert np.array_equal(part, whole[start:stop])


def test_format_is_detected_from_content_and_not_from_the_name(tmp_path: Path):
    path = tmp_path / "ein Lied, 歌 🎵.mp3"
    soundfile.write(path, tone(), RATE, format="FLAC")
    assert audio.decode(clip(path)).seconds == 2.0


def test_duration_beyond_the_end_gives_the_existing_samples(tmp_path: Path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(), RATE)
    assert audio.decode(clip(path, offset=1.0, duration=9.0)).seconds == 1.0


def test_file_url_gives_the_same_samples_as_the_path(tmp_path: Path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(), RATE)
    local, remote = audio.decode(clip(path)), audio.decode(clip(path.as_uri()))
    assert local.digest == remote.digest


def test_silent_file_is_valid_audio(tmp_path: Path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(100), RATE)
    assert not audio.decode(clip(path)).samples.any()


def test_truncated_file_gives_the_samples_that_exist(tmp_path: Path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(), RATE)
    path.write_bytes(path.read_bytes()[: 44 + 2 * RATE])
    assert audio.decode(clip(path)).seconds == 1.0


def test_digest_depends_on_samples_and_not_on_the_format(tmp_path: Path):
    first, second, third = (tmp_path / name for name in ("a.wav", "b.flac", "c.wav"))
    levels = np.rint(tone() * 32_767).astype(np.int16)
    soundfile.write(first, levels, RATE)
    soundfile.write(second, levels, RATE)
    soundfile.write(third, levels // 2, RATE)
    digests = [audio.decode(clip(path)).digest for path in (first, second, third)]
    assert digests[0] == digests[1] != digests[2]


def test_playlist_does_not_open_other_files(tmp_path: Path):
    encode(tmp_path / "tone.m4a", tone(), "aac", RATE)
    lines = ["#EXTM3U", "#EXTINF:2,", (tmp_path / "tone.m4a").as_uri(), "#EXT-X-ENDLIST"]
    (tmp_path / "list.wav").write_text("\n".join(lines))
    with pytest.raises(AudioError) as caught:
        audio.decode(clip(tmp_path / "list.wav"))
    assert caught.value.reason == "unreadable"


def test_clip_shorter_than_one_resampled_sample_raises_too_short(tmp_path: Path):
    path = tmp_path / "one.wav"
    soundfile.write(path, np.ones(1), 128_000)
    with pytest.raises(AudioError) as caught:
        audio.load(clip(path), RATE)
    assert caught.value.reason == "too-short"


def bad_files(folder: Path) -> dict[str, tuple[Clip, str]]:
    """Writes bad files, and returns kind -> (clip, expected reason)."""
    good = folder / "good.wav"
    soundfile.write(good, tone(), RATE)
    (folder / "text.wav").write_text("I am not audio at all.\n" * 50)
    (folder / "zero-bytes.wav").write_bytes(b"")
    soundfile.write(folder / "no-samples.wav", np.empty(0), RATE)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        samples = tone()
        samples[77] = value
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
    soundfile.write(folder / "slow.wav", np.zeros(10), 1)
    (folder / "folder.wav").mkdir()
    (folder / "cut.flac").write_bytes(b"fLaC\x00\x00\x00\x22")
    return {
        "text": (clip(folder / "text.wav"), "unreadable"),
        "zero bytes": (clip(folder / "zero-bytes.wav"), "unreadable"),
        "no samples": (clip(folder / "no-samples.wav"), "empty"),
        "nan": (clip(folder / "nan.wav"), "not-finite"),
        "inf": (clip(folder / "inf.wav"), "not-finite"),
        "1 Hz": (clip(folder / "slow.wav"), "bad-rate"),
        "folder": (clip(folder / "folder.wav"), "unreadable"),
        "cut header": (clip(folder / "cut.flac"), "unreadable"),
        "missing": (clip(folder / "gone.wav"), "missing"),
        "beyond the end": (clip(good, offset=99.0), "beyond-end"),
        "too long": (clip(good, offset=0.0), "too-long"),
    }


def test_bad_audio_raises_audio_error_with_its_reason(tmp_path: Path):
    result = {}
    kinds = bad_files(tmp_path)
    for kind, (bad, _) in kinds.items():
        with pytest.raises(AudioError) as caught:
            audio.decode(bad, max_seconds=1.0 if kind == "too long" else 3600.0)
        result[kind] = caught.value.reason
    assert result == {kind: reason for kind, (_, reason) in kinds.items()}


def test_clip_within_a_too_long_file_is_read(tmp_path: Path):
    path = tmp_path / "hours.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(8_000 * 60, np.float32))
    with pytest.raises(AudioError) as caught:
        audio.decode(clip(path), max_seconds=600)
    assert caught.value.reason == "too-long"
    assert audio.decode(clip(path, offset=3_000.0, duration=5.0), max_seconds=600).seconds == 5.0


@pytest.mark.parametrize("is_stated", [True, False])
def test_whole_flac_is_decoded_by_libsndfile_without_ffmpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stated: bool
):
    """It used to be decoded twice: libsndfile's seek failed at the end, so FFmpeg read it again."""
    samples = np.random.default_rng(0).integers(-9000, 9000, 70_000).astype(np.int16)
    path = tmp_path / "a.flac"
    soundfile.write(path, samples, 16_000)
    if not is_stated:
        data = bytearray(path.read_bytes())
        data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])
        path.write_bytes(data)
    monkeypatch.setattr("manifests.decoders.ffmpeg.read", None)
    wave = audio.decode(Clip(clip_id="a", uri=str(path)))
    assert np.array_equal(wave.samples, samples / np.float32(32768))
    assert wave.warnings == ()
