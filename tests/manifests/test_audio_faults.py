"""Tests for faults from public bug reports: wrong headers, gaps, damaged packets, odd channels.

Reference values come from ffmpeg, or from a noise that is located by cross-correlation.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from manifests import audio
from manifests.clips import Clip
from manifests.errors import AudioError, StoreError
from tests.manifests.reference_audio import (
    RATE,
    decode_with_ffmpeg,
    ffmpeg,
    locate,
    noise,
    run,
    write_reference,
)


def clip(path: Path | str, **fields) -> Clip:
    return Clip(clip_id="x", uri=str(path), **fields)


def warning_kinds(wave: audio.Waveform) -> set[str]:
    return {warning.kind for warning in wave.warnings}


def check_time(path: Path, *, offset: float, true: float, seconds: float = 0.5) -> None:
    """Checks that a clip at an offset has the reference's samples from `true` seconds on."""
    received = audio.load(clip(path, offset=offset, duration=seconds), RATE)
    place, correlation = locate(received, noise())
    assert correlation > 0.8
    assert place == pytest.approx(true, abs=0.01)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_reference(tmp_path / "reference.wav")


# Headers with a wrong or missing length


def test_mp3_without_a_stated_length_is_decoded_to_its_end(tmp_path: Path, reference: Path):
    piped, bare, joined = (tmp_path / name for name in ("piped.mp3", "bare.mp3", "joined.mp3"))
    ffmpeg("-i", reference, "-q:a", "6", "-f", "mp3", "-", stdout=piped)
    run("lame", "--quiet", "-t", "-V6", reference, bare)
    run("lame", "--quiet", reference, tmp_path / "one.mp3")
    joined.write_bytes((tmp_path / "one.mp3").read_bytes() * 2)
    for path, at_least in ((piped, 6.0), (bare, 6.0), (joined, 12.0)):
        wave = audio.decode(clip(path))
        assert len(wave.samples) == pytest.approx(len(decode_with_ffmpeg(path, RATE)), abs=1152)
        assert wave.seconds >= at_least
        assert "truncated" not in warning_kinds(wave)


def test_flac_with_unknown_or_wrong_length_is_decoded_to_its_end(tmp_path: Path, reference: Path):
    piped, wrong_header, tagged = (
        tmp_path / name for name in ("piped.flac", "wrong.flac", "id3.flac")
    )
    ffmpeg("-i", reference, "-f", "flac", "-", stdout=piped)
    run("flac", "--silent", "-o", wrong_header, reference)
    original = wrong_header.read_bytes()
    short = RATE.to_bytes(5, "big")  # the header states 1 s of 6
    wrong_header.write_bytes(
        original[:21] + bytes([original[21] & 0xF0]) + short[1:] + original[26:]
    )
    tagged.write_bytes(b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256) + piped.read_bytes())
    expected = audio.decode(clip(reference))
    for path in (piped, wrong_header, tagged):
        assert audio.decode(clip(path)).digest == expected.digest
        part = audio.decode(clip(path, offset=4.25, duration=0.5)).samples
        assert np.array_equal(part, expected.samples[68_000:76_000])


def test_wav_with_sizes_of_zero_is_decoded_to_its_end(tmp_path: Path, reference: Path):
    data = bytearray(reference.read_bytes())
    data[4:8] = data[40:44] = bytes(4)
    path = tmp_path / "killed.wav"
    path.write_bytes(data)
    assert audio.decode(clip(path)).digest == audio.decode(clip(reference)).digest


def test_wav_with_an_empty_data_chunk_before_a_list_raises_empty(tmp_path: Path):
    chunks = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    chunks += b"data" + bytes(4) + b"LIST" + struct.pack("<I", 64) + bytes(64)
    path = tmp_path / "empty.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    with pytest.raises(AudioError) as caught:
        audio.decode(clip(path))
    assert caught.value.reason == "empty"


def test_wav_with_an_id3_tag_before_riff_is_decoded(tmp_path: Path, reference: Path):
    size = 60_000
    tag = b"ID3\x03\x00\x00" + bytes([size >> shift & 127 for shift in (21, 14, 7, 0)])
    path = tmp_path / "tagged.wav"
    path.write_bytes(tag + bytes(size) + reference.read_bytes())
    assert audio.decode(clip(path)).digest == audio.decode(clip(reference)).digest


# Truncated files, and files with trailing data


@pytest.mark.parametrize("suffix", ["wav", "aiff", "flac", "m4a", "mka", "mp3"])
def test_truncated_file_gets_a_warning_with_the_missing_seconds(
    tmp_path: Path, reference: Path, suffix: str
):
    path = tmp_path / f"broken.{suffix}"
    ffmpeg("-i", reference, "-movflags", "+faststart", path)
    whole = audio.decode(clip(path))
    assert "truncated" not in warning_kinds(whole)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    wave = audio.decode(clip(path))
    assert 2.0 < wave.seconds < 4.5
    (warning,) = [w for w in wave.warnings if w.kind == "truncated"]
    missing = float(warning.message.split(", ")[1].split(" s before")[0])
    assert missing + wave.seconds == pytest.approx(6.0, abs=0.2)
    # A clip within the remaining part gets no warning.
    assert not audio.decode(clip(path, offset=0.5, duration=1.0)).warnings


def test_truncated_ogg_gets_a_warning(tmp_path: Path, reference: Path):
    """An Ogg file does not state its length, but its last page states the page's length."""
    path = tmp_path / "broken.opus"
    ffmpeg("-i", reference, "-c:a", "libopus", path)
    assert not audio.decode(clip(path)).warnings
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert warning_kinds(audio.decode(clip(path))) == {"truncated"}


def test_wav_with_a_too_small_length_gets_a_warning(tmp_path: Path, reference: Path):
    """This happens in files of more than 4 GiB, whose length does not fit the header."""
    data = bytearray(reference.read_bytes())
    data[40:44] = (2 * RATE).to_bytes(4, "little")
    path = tmp_path / "wrapped.wav"
    path.write_bytes(data)
    wave = audio.decode(clip(path))
    assert len(wave.samples) == len(decode_with_ffmpeg(path, RATE)) == RATE
    assert warning_kinds(wave) == {"trailing"}


def test_concatenated_wav_files_get_a_warning(tmp_path: Path, reference: Path):
    path = tmp_path / "joined.wav"
    path.write_bytes(reference.read_bytes() * 2)
    assert warning_kinds(audio.decode(clip(path))) == {"trailing"}


def test_clip_duration_beyond_the_end_gets_a_warning(reference: Path):
    assert warning_kinds(audio.decode(clip(reference, offset=3.0, duration=9.0))) == {"short"}
    assert not audio.decode(clip(reference, offset=3.0, duration=3.05)).warnings


# Timestamps


@pytest.mark.parametrize("suffix", ["webm", "mp4", "mka", "ts"])
def test_gap_between_packets_becomes_silence(tmp_path: Path, reference: Path, suffix: str):
    path = tmp_path / f"gap.{suffix}"
    codec = {"webm": "libopus"}.get(suffix, "aac")
    whole = tmp_path / f"whole.{suffix}"
    ffmpeg("-i", reference, "-c:a", codec, "-b:a", "64k", whole)
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        track = source.streams.audio[0]
        stream = target.add_stream_from_template(track)
        for packet in source.demux(track):
            start = track.start_time or 0
            if packet.dts is not None and not 2 <= (packet.pts - start) * packet.time_base < 4:
                packet.stream = stream
                target.mux(packet)
    wave = audio.decode(clip(path))
    assert "gap" in warning_kinds(wave)
    assert wave.seconds == pytest.approx(6.0, abs=0.1)
    silent = audio.decode(clip(path, offset=2.5, duration=1.0))
    assert np.abs(silent.samples).max() < 1e-3
    for offset in (1.0, 4.5, 5.0):
        # Some containers do not state the encoder's delay, so players do not know it either.
        by_ffmpeg = decode_with_ffmpeg(whole, RATE, "-ss", str(offset), "-t", "0.5")
        true, _ = locate(by_ffmpeg, noise())
        assert true == pytest.approx(offset, abs=0.1)
        check_time(path, offset=offset, true=true)


@pytest.mark.parametrize(
    ("suffix", "codec", "rate"),
    [("mka", "flac", RATE), ("mka", "libopus", 48_000), ("mka", "pcm_s16le", RATE),
     ("mp4", "aac", RATE), ("ts", "aac", RATE)],
)  # fmt: skip
def test_jittering_timestamps_do_not_create_gaps(
    tmp_path: Path, reference: Path, suffix: str, codec: str, rate: int
):
    """Recorders stamp packets on arrival. The jitter is +-0.045 s here; ffmpeg ignores it, too."""
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"jitter.{suffix}"
    ffmpeg("-i", reference, "-ar", str(rate), "-c:a", codec, whole)
    rng, last = np.random.default_rng(0), -1
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        track = source.streams.audio[0]
        stream = target.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.pts is None or packet.time_base is None:
                continue
            late = round(rng.uniform(0, 0.09) / float(packet.time_base))
            packet.pts = packet.dts = last = max(packet.pts + late, last + 1)
            packet.stream = stream
            target.mux(packet)
    wave = audio.decode(clip(path))
    assert "gap" not in warning_kinds(wave)
    samples = audio.resample(wave, RATE)
    by_ffmpeg = decode_with_ffmpeg(path, RATE, filters="aresample=async=1")
    assert len(samples) == pytest.approx(len(by_ffmpeg), abs=0.1 * RATE)
    for start in (0.5, 2.0, 4.0, 5.0):
        part = samples[round(start * RATE) : round((start + 0.5) * RATE)]
        place, correlation = locate(part, by_ffmpeg)
        assert (round(place, 1), correlation > 0.98) == (pytest.approx(start, abs=0.1), True)


def test_audio_that_starts_after_the_video_keeps_its_offset(tmp_path: Path, reference: Path):
    path = tmp_path / "late.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=size=32x32:rate=10:duration=7", "-itsoffset", "1",
           "-i", reference, "-c:v", "mpeg4", "-c:a", "aac", path)  # fmt: skip
    check_time(path, offset=3.0, true=2.0)
    by_ffmpeg = decode_with_ffmpeg(path, RATE, "-ss", "3.0", "-t", "0.5")
    assert locate(by_ffmpeg[:8000], noise())[0] == pytest.approx(2.0, abs=0.02)


def test_start_time_of_an_audio_only_file_is_ignored(tmp_path: Path, reference: Path):
    path = tmp_path / "shifted.mka"
    ffmpeg("-itsoffset", "5", "-i", reference, "-c:a", "flac", path)
    check_time(path, offset=1.0, true=1.0)


def test_chained_ogg_is_decoded_to_its_end(tmp_path: Path, reference: Path):
    item = tmp_path / "one.opus"
    ffmpeg("-i", reference, "-c:a", "libopus", item)
    path = tmp_path / "chained.opus"
    other = tmp_path / "two.opus"
    ffmpeg("-i", reference, "-c:a", "libopus", "-serial_offset", "7", other)
    path.write_bytes(item.read_bytes() + other.read_bytes())
    wave = audio.decode(clip(path))
    assert wave.seconds == pytest.approx(12.0, abs=0.1)
    check_time(path, offset=7.0, true=1.0)


# Damaged packets


@pytest.mark.parametrize("junk", ["zeros", "noise"])
def test_damaged_mp3_keeps_its_length(tmp_path: Path, reference: Path, junk: str):
    path = tmp_path / "damaged.mp3"
    run("lame", "--quiet", "-b", "64", reference, path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    fill = bytes(3000) if junk == "zeros" else np.random.default_rng(1).bytes(3000)
    data[middle : middle + 3000] = fill
    path.write_bytes(data)
    wave = audio.decode(clip(path))
    by_ffmpeg = decode_with_ffmpeg(path, RATE)
    assert len(wave.samples) == pytest.approx(len(by_ffmpeg), abs=0.15 * RATE)
    assert wave.warnings


def test_damaged_flac_packet_does_not_shift_later_samples(tmp_path: Path, reference: Path):
    path = tmp_path / "damaged.flac"
    run("flac", "--silent", "-o", path, reference)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    wave = audio.decode(clip(path))
    assert wave.seconds == pytest.approx(6.0, abs=0.01)
    assert warning_kinds(wave) & {"damaged", "gap"}
    check_time(path, offset=1.0, true=1.0)
    check_time(path, offset=5.0, true=5.0)


def test_mp3_with_changing_channels_and_rate_is_decoded(tmp_path: Path, reference: Path):
    stereo = write_reference(tmp_path / "stereo.wav", channels=2)
    run("lame", "--quiet", "-m", "m", reference, tmp_path / "a.mp3")
    run("lame", "--quiet", "-m", "s", stereo, tmp_path / "b.mp3")
    run("lame", "--quiet", "--resample", "32", reference, tmp_path / "c.mp3")
    path = tmp_path / "joined.mp3"
    path.write_bytes(b"".join((tmp_path / name).read_bytes() for name in ("a.mp3", "b.mp3")))
    wave = audio.decode(clip(path))
    assert len(wave.samples) == pytest.approx(len(decode_with_ffmpeg(path, RATE)), abs=0.1 * RATE)
    path.write_bytes(b"".join((tmp_path / name).read_bytes() for name in ("a.mp3", "c.mp3")))
    wave = audio.decode(clip(path))
    assert wave.seconds == pytest.approx(12.1, abs=0.15)
    assert "changing-rate" in warning_kinds(wave)
    place, correlation = locate(audio.resample(wave, RATE)[7 * RATE : 8 * RATE], noise())
    assert place == pytest.approx(1.0, abs=0.2)
    assert correlation > 0.9


# Tracks and channels


def test_default_track_of_a_container_is_decoded(tmp_path: Path, reference: Path):
    other = write_reference(tmp_path / "other.wav", seed=9)
    path = tmp_path / "tracks.mka"
    ffmpeg("-i", other, "-i", reference, "-map", "0", "-map", "1", "-c:a", "flac",
           "-disposition:a:0", "0", "-disposition:a:1", "default", path)  # fmt: skip
    check_time(path, offset=1.0, true=1.0)


def test_channels_of_opposite_phase_get_a_warning(tmp_path: Path):
    wave = noise(2.0)
    soundfile.write(tmp_path / "o.wav", np.stack([wave, -wave], 1), RATE)
    soundfile.write(tmp_path / "i.wav", np.stack([wave, noise(2.0, seed=5)], 1), RATE)
    assert warning_kinds(audio.decode(clip(tmp_path / "o.wav"))) == {"opposite-phase"}
    assert not audio.decode(clip(tmp_path / "i.wav")).warnings


def test_floats_in_the_range_of_integers_raise_out_of_range(tmp_path: Path):
    path = tmp_path / "integers.wav"
    soundfile.write(path, noise(1.0) * 32768, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="integers stored as floats") as caught:
        audio.decode(clip(path))
    assert caught.value.reason == "out-of-range"
    loud = noise(1.0) * (20 / np.abs(noise(1.0)).max())
    soundfile.write(path, loud.astype(np.float32), RATE, subtype="FLOAT")
    assert "over-range" in warning_kinds(audio.decode(clip(path)))


def test_silent_and_clipped_files_get_a_warning(tmp_path: Path):
    soundfile.write(tmp_path / "s.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "c.wav", np.clip(20 * noise(1.0), -1, 1), RATE)
    assert warning_kinds(audio.decode(clip(tmp_path / "s.wav"))) == {"silent"}
    assert warning_kinds(audio.decode(clip(tmp_path / "c.wav"))) == {"clipped"}


# Faults of a store or disk are not faults of a clip


def test_pipes_sockets_and_devices_raise_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    os.mkfifo(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the path of a socket may have 107 bytes
        listener.bind("s.wav")
    for path in (tmp_path / "pipe.wav", tmp_path / "s.wav", "/dev/zero"):
        with pytest.raises(AudioError, match="expected a regular file") as caught:
            audio.decode(clip(path))
        assert caught.value.reason == "unreadable"


def test_unreachable_store_raises_store_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(StoreError, match=r"s3://away-bucket/a\.wav"):
            audio.decode(clip("s3://away-bucket/a.wav"))


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_failing_disk_raises_store_error(
    tmp_path: Path, reference: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / f"x.{suffix}"
    ffmpeg("-i", reference, path)
    from manifests.decoders import files

    class FailingFile:
        def __init__(self, inner) -> None:
            self._inner = inner

        def read(self, count: int) -> bytes:
            if self._inner.tell() >= 8192:
                raise OSError(5, "Input/output error")
            return self._inner.read(min(count, 4096) if count > 0 else count)

        def __getattr__(self, name: str):
            return getattr(self._inner, name)

    original = files._open_local
    monkeypatch.setattr(
        files,
        "_open_local",
        lambda uri, part: files.AudioFile(FailingFile(original(uri, part)._inner), 200_000),
    )
    with pytest.raises(StoreError, match="Input/output error"):
        audio.decode(clip(path))


# Several clips of one file


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus", "m4a", "webm", "mka"])
def test_decode_many_opens_a_file_once(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
):
    long = write_reference(tmp_path / "long.wav", 20.0)
    path = tmp_path / f"long.{suffix}" if suffix != "wav" else long
    if suffix != "wav":
        ffmpeg("-i", long, *(["-c:a", "libvorbis"] if suffix == "ogg" else []), path)
    whole = audio.decode(clip(path))
    opened = []
    original = audio.open_audio
    monkeypatch.setattr(audio, "open_audio", lambda uri, **_: opened.append(uri) or original(uri))
    cuts = [(15.5, 2.0), (0.25, 1.0), (15.0, 1.0), (12.0, None), (99.0, 1.0), (19.9, 5.0)]
    waves = audio.decode_many([clip(path, offset=o, duration=d) for o, d in cuts])
    assert opened == [str(path)]
    rate = whole.sample_rate
    for (offset, duration), wave in zip(cuts, waves, strict=True):
        if offset == 99.0:
            assert isinstance(wave, AudioError)
            assert wave.reason == "beyond-end"
            continue
        assert isinstance(wave, audio.Waveform)
        start = round(offset * rate)
        stop = None if duration is None else start + round(duration * rate)
        assert np.array_equal(wave.samples, whole.samples[start:stop])
        assert wave.digest == audio.decode(clip(path, offset=offset, duration=duration)).digest


@pytest.mark.parametrize(
    ("codec", "suffix", "change"),
    [("libvorbis", "ogg", "-ar 32000"), ("libvorbis", "ogg", "-ac 2"), ("flac", "oga", "-ar 32000"),
     ("libopus", "opus", "-ac 2")],
)  # fmt: skip
def test_chained_ogg_with_changing_format_is_decoded(
    tmp_path: Path, reference: Path, codec: str, suffix: str, change: str
):
    """FFmpeg rejects a change of rate or channels within an Ogg file: each link is opened anew."""
    first, second, path = (tmp_path / f"{name}.{suffix}" for name in ("first", "second", "chained"))
    rate = ("-ar", "48000") if codec == "libopus" else ()
    ffmpeg("-i", reference, *rate, "-c:a", codec, "-f", "ogg", first)
    arguments = (*rate, *change.split(), "-c:a", codec, "-f", "ogg", "-serial_offset", "7")
    ffmpeg("-i", reference, *arguments, second)
    path.write_bytes(first.read_bytes() + second.read_bytes() + first.read_bytes())
    wave = audio.decode(clip(path))
    assert wave.seconds == pytest.approx(18.0, abs=0.1)
    assert warning_kinds(wave) <= {"changing-rate"}
    for offset in (1.0, 7.0, 13.0):
        check_time(path, offset=offset, true=1.0)
        part = audio.decode(clip(path, offset=offset, duration=1.0)).samples
        start = round(offset * wave.sample_rate)
        assert np.array_equal(part, wave.samples[start : start + len(part)])


@pytest.mark.parametrize("suffix", ["wav", "w64"])
def test_clips_of_mp3_in_wav_match_the_whole_file(tmp_path: Path, reference: Path, suffix: str):
    path = tmp_path / f"mp3.{suffix}"
    ffmpeg("-i", reference, "-c:a", "libmp3lame", path)
    wave = audio.decode(clip(path))
    assert len(wave.samples) == pytest.approx(len(decode_with_ffmpeg(path, RATE)), abs=8)
    for offset in (1.2345, 3.0):
        part = audio.decode(clip(path, offset=offset, duration=0.75)).samples
        start = round(offset * RATE)
        assert np.array_equal(part, wave.samples[start : start + len(part)])


def test_clip_without_a_duration_reads_all_concatenated_flac_files(tmp_path: Path, reference: Path):
    """The length that the first file states is not the end of the clip."""
    path = tmp_path / "joined.flac"
    run("flac", "--silent", "-o", tmp_path / "one.flac", reference)
    path.write_bytes((tmp_path / "one.flac").read_bytes() * 2)
    wave = audio.decode(clip(path))
    assert len(wave.samples) == 12 * RATE
    part = audio.decode(clip(path, offset=2.1)).samples
    assert np.array_equal(part, wave.samples[round(2.1 * RATE) :])


@pytest.mark.parametrize(("suffix", "codec"), [("webm", "libvorbis"), ("mkv", "libopus")])
def test_encoder_delay_in_a_video_is_not_a_gap(
    tmp_path: Path, reference: Path, suffix: str, codec: str
):
    path = tmp_path / f"video.{suffix}"
    ffmpeg("-f", "lavfi", "-i", "color=size=32x32:rate=10:duration=6", "-i", reference,
           "-c:v", "libvpx", "-c:a", codec, path)  # fmt: skip
    assert not audio.decode(clip(path)).warnings
