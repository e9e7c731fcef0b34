"""Tests for WAV files that public bug reports describe, written byte by byte."""

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
    """Returns a `fmt ` chunk of WAVE_FORMAT_EXTENSIBLE."""
    size = bits // 8
    head = struct.pack("<HHIIHH", 0xFFFE, 1, RATE, size * RATE, size, bits)
    return head + struct.pack("<HHI", 22 + extra, valid_bits, 4) + PCM_GUID + bytes(extra)


def wav_bytes(fmt: bytes, data: bytes, *, declared: int | None = None) -> bytes:
    """Returns a WAV file whose data chunk may declare another size than it has."""
    size = len(data) if declared is None else declared
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", len(body) + len(data)) + body + data


def decode_content(path: Path, content: bytes) -> audio.Waveform:
    path.write_bytes(content)
    return audio.decode(Clip(clip_id="clip", uri=str(path)))


@pytest.mark.parametrize(
    ("report", "content"),
    [
        ("audio.cpp#319", wav_bytes(extensible(16, 16), SIGNAL.tobytes())),
        ("wavefile#37", wav_bytes(extensible(16, 16, extra=8), SIGNAL.tobytes())),
        ("runmat#409", wav_bytes(extensible(32, 24), (SIGNAL.astype("<i4") << 16).tobytes())),
        ("hound#100, ebiten#3581", wav_bytes(PCM, SIGNAL.tobytes() + b"\x7f")),
    ],
)
def test_wav_variants_decode_to_the_written_samples(tmp_path: Path, report: str, content: bytes):
    """The variants: GUIDs, longer chunks, 24 valid bits of 32, half a sample at the end."""
    samples = decode_content(tmp_path / "clip.wav", content).samples
    assert np.array_equal(samples, SIGNAL / np.float32(32768)), report


def test_understated_data_size_gets_a_warning(tmp_path: Path):
    """Superpowered#243: players stop at the size that the header states."""
    received = decode_content(
        tmp_path / "clip.wav", wav_bytes(PCM, SIGNAL.tobytes(), declared=20_000)
    )
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
def test_file_names_with_special_characters_are_opened(tmp_path: Path, name: str):
    """gumroad#6137, easy-whisper-ui#4: decomposed accents, and special characters of URLs."""
    assert len(decode_content(tmp_path / name, wav_bytes(PCM, SIGNAL.tobytes())).samples) == RATE
