"""Provides a signal in which every part can be located, and runs reference tools.

The tools (ffmpeg, sox, lame) come from the packages in tests/debian-packages.txt; a test that lacks
one fails.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def noise(seconds: float = 6.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Returns noise between 300 and 3400 Hz of changing loudness, float32."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / rate)
    spectrum[(hertz < 300) | (hertz > 3400)] = 0
    wave = np.fft.irfft(spectrum, count)
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 1.3 * np.arange(count) / rate)
    return (0.1 * swell * wave / wave.std()).astype(np.float32)


def write_reference(path: Path, seconds: float = 6.0, seed: int = 0, channels: int = 1) -> Path:
    """Writes the noise as a 16-bit WAV file."""
    wave = noise(seconds, seed=seed)
    soundfile.write(path, np.repeat(wave[:, None], channels, 1), RATE, subtype="PCM_16")
    return path


def run(*command: str | Path, stdin: Path | None = None, stdout: Path | None = None) -> None:
    """Runs a tool; a failing one fails the test."""
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin.read_bytes() if stdin else None,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    if stdout:
        stdout.write_bytes(done.stdout)


def ffmpeg(*arguments: str | Path, stdout: Path | None = None) -> None:
    """Runs ffmpeg."""
    run("ffmpeg", "-v", "error", "-y", *arguments, stdout=stdout)


def decode_with_ffmpeg(
    path: Path, rate: int, *arguments: str, filters: str = "anull"
) -> np.ndarray:
    """Decodes a file with ffmpeg, as mono."""
    command = ["ffmpeg", "-v", "quiet", *arguments, "-i", str(path), "-map", "0:a:0?",
               "-af", filters, "-ac", "1", "-ar", str(rate), "-f", "f32le", "-"]  # fmt: skip
    return np.frombuffer(subprocess.run(command, capture_output=True).stdout, np.float32)


def locate(part: np.ndarray, whole: np.ndarray, rate: int = RATE) -> tuple[float, float]:
    """Returns the position of a part in the whole signal, in seconds, and the correlation there."""
    part = part - part.mean()
    size = len(whole) + len(part)
    product = np.fft.irfft(np.fft.rfft(whole, size) * np.conj(np.fft.rfft(part, size)), size)
    best = int(product[: len(whole)].argmax())
    matched = whole[best : best + len(part)]
    product_sum = float(np.dot(matched, part[: len(matched)]))
    scale = np.linalg.norm(matched) * np.linalg.norm(part[: len(matched)])
    return best / rate, product_sum / max(float(scale), 1e-9)
