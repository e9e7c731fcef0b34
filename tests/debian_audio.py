"""Provides real audio with known content from Debian packages; tests without it are skipped.

Packages are read below $COAT_DEBIAN_ROOT (default: /), so they need not be installed:
`apt-get download PACKAGE && dpkg-deb -x PACKAGE_*.deb ROOT` is enough.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from examples.demo.soundfont import SAMPLE_RATE, Note, SoundFont

ROOT = Path(os.environ.get("COAT_DEBIAN_ROOT", "/"))
VOICE = "usr/share/asterisk/sounds/en_US_f_Allison"
PROMPT_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Melody:
    """Notes of one instrument, with their audio."""

    instrument: str
    samples: np.ndarray
    """float32, 44.1 kHz."""
    notes: list[Note]


def files(package: str, path: str) -> Path:
    """Returns a file or folder of a package; skips the test if the package is missing."""
    result = ROOT / path
    if not result.exists():
        pytest.skip(f"needs {package}: apt-get install -y --no-install-recommends {package}")
    return result


def prompts(count: int) -> list[tuple[np.ndarray, str]]:
    """Returns spoken prompts of at least 4 words and at most 25 s, at 16 kHz, with transcripts."""
    folder = files("asterisk-core-sounds-en-g722", VOICE)
    listing = files(
        "asterisk-core-sounds-en", "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    )
    result = []
    for line in gzip.decompress(listing.read_bytes()).decode("utf-8-sig").splitlines():
        key, colon, text = line.partition(": ")
        file = folder / f"{key}.g722"
        plain = not re.search(r"[\[\]<>()]", text) and len(text.split()) >= 4
        if colon and plain and file.exists() and file.stat().st_size < 25 * PROMPT_RATE / 2:
            result.append((file, text.strip()))
    return [(_read_g722(file), text) for file, text in result[:: len(result) // count][:count]]


def sounds(category: str) -> dict[str, Path]:
    """Returns name -> file of a category of Scratch's sound library: Animal, Human, Effects, ..."""
    folder = files("scratch", f"usr/share/scratch/Media/Sounds/{category}")
    return {file.stem: file for file in sorted(folder.iterdir())}


def melodies(*, chords: bool = False, notes_each: int = 12) -> Iterator[Melody]:
    """Yields notes of real instruments, in sequence or as chords of three."""
    font = SoundFont(files("timgm6mb-soundfont", "usr/share/sounds/sf2/TimGM6mb.sf2"))
    for index, (instrument, (program, low, high)) in enumerate(INSTRUMENTS.items()):
        rng = np.random.default_rng(index)
        notes = []
        for place, midi in enumerate(rng.permutation(np.linspace(low, high - 7, notes_each))):
            onset = 0.3 + 1.2 * place
            keys = (0, 4, 7) if chords else (0,)
            notes += [Note(onset, onset + 0.9, round(midi) + key) for key in keys]
        samples = font.play(program, notes, notes[-1].offset_s + 0.4)
        yield Melody(instrument, samples, notes)


INSTRUMENTS = {
    "piano": (0, 45, 84),
    "guitar": (24, 43, 80),
    "violin": (40, 57, 90),
    "cello": (42, 38, 74),
    "trumpet": (56, 55, 84),
    "clarinet": (71, 52, 86),
    "flute": (73, 62, 94),
}
"""Name -> (General MIDI program, lowest MIDI note, highest MIDI note)."""
MELODY_RATE = SAMPLE_RATE


def _read_g722(file: Path) -> np.ndarray:
    with av.open(str(file), format="g722") as container:
        frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768
