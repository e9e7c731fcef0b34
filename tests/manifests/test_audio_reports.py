"""Files that public bug reports describe, made here byte by byte, with the samples they hold."""

from __future__ import annotations

import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from manifests import audio
from manifests.clips import Clip

RATE = 16_000
SIGNAL = (np.random.default_rng(0).uniform(-0.9, 0.9, RATE) * 32768).astype("<i2")
PCM = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")


def extensible(bits: int, valid_bits: int, *, extra: int = 0) -> bytes:
    """A `fmt ` chunk of WAVE_FORMAT_EXTENSIBLE."""
    size = bits // 8
    head = struct.pack("<HHIIHH", 0xFFFE, 1, RATE, size * RATE, size, bits)
    return head + struct.pack("<HHI", 22 + extra, valid_bits, 4) + PCM_GUID + bytes(extra)


def wave(fmt: bytes, data: bytes, *, declared: int | None = None) -> bytes:
    """A WAV file whose data chunk may declare another size than it has."""
    size = len(data) if declared is None else declared
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", len(body) + len(data)) + body + data


def decoded(path: Path, content: bytes) -> audio.Waveform:
    path.write_bytes(content)
    return audio.decode(Clip(clip_id="clip", uri=str(path)))


@pytest.mark.parametrize(
    ("report", "content"),
    [
        ("audio.cpp#319", wave(extensible(16, 16), SIGNAL.tobytes())),
        ("wavefile#37", wave(extensible(16, 16, extra=8), SIGNAL.tobytes())),
        ("runmat#409", wave(extensible(32, 24), (SIGNAL.astype("<i4") << 16).tobytes())),
        ("hound#100, ebiten#3581", wave(PCM, SIGNAL.tobytes() + b"\x7f")),
    ],
)
def test_samples_are_those_that_were_written(tmp_path: Path, report: str, content: bytes):
    """Formats in their GUID, longer chunks, 24 valid bits of 32, half a sample at the end."""
    samples = decoded(tmp_path / "clip.wav", content).samples
    assert np.array_equal(samples, SIGNAL / np.float32(32768)), report


def test_audio_behind_an_understated_size_is_noticed(tmp_path: Path):
    """Superpowered#243: the header states less than the file has; players stop there; a warning is
    recorded."""
    received = decoded(tmp_path / "clip.wav", wave(PCM, SIGNAL.tobytes(), declared=20_000))
    assert len(received.samples) == 10_000
    assert [warning.kind for warning in received.warnings] == ["trailing"]


@pytest.mark.parametrize(
    "name",
    [
        unicodedata.normalize("NFD", "café.wav"),
        "a#b?c%20d.wav",
        "758\uff1aO.wav",
        "[x]*{y}.wav",
        "a\nb.wav",
    ],
)
def test_any_file_name_is_taken_as_it_is(tmp_path: Path, name: str):
    """gumroad#6137, easy-whisper-ui#4: accents in two forms, and characters that addresses use."""
    assert len(decoded(tmp_path / name, wave(PCM, SIGNAL.tobytes())).samples) == RATE
