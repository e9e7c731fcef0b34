"""Measures the pitch trackers on known notes: accuracy, voicing, and speed on this CPU.

    COAT_DEBIAN_ROOT=... python -m benchmarks.pitch

Notes of seven instruments from a soundfont (Debian: timgm6mb-soundfont), whose pitch and times are
exact. Raw pitch accuracy: frames well inside a note within 50 cents; voicing: frames inside notes
with voicing of a half and more, and frames before the first note below it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import soxr
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from teachers import registry
from tests.debian_audio import MELODY_RATE, melodies

RATE = 16_000
TRACKERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "CREPE tiny": ("crepe", {"model": "tiny"}, 12),
    "CREPE full": ("crepe", {"model": "full"}, 1),
    "SwiftF0": ("swift_f0", {}, 12),
}
"""Name -> family, settings, notes per instrument."""


def main() -> None:
    """Runs the program."""
    shown = Table("tracker", title="Pitch on rendered notes, one thread")
    for heading in (
        "notes",
        "within 50 cents",
        "voiced in notes",
        "unvoiced before",
        "x real time",
    ):
        shown.add_column(heading, justify="right")
    for name, (family, settings, notes_each) in TRACKERS.items():
        teacher = registry.make("pitch", family, settings)
        teacher.load(device="cpu", num_threads=1)
        hop_s = teacher.spec().stream("f0").hop_s
        near, voiced, silent, notes = [], [], [], 0
        heard_s = taken_s = 0.0
        for melody in melodies(notes_each=notes_each):
            wave = soxr.resample(melody.samples, MELODY_RATE, RATE).astype(np.float32)
            start = time.perf_counter()
            f0_T, voicing_T = teacher.extract([wave])[0].frames["f0"].T
            taken_s += time.perf_counter() - start
            heard_s += len(wave) / RATE
            times_T = np.arange(len(f0_T)) * hop_s
            silent += (voicing_T[times_T < 0.2] < 0.5).tolist()
            for note in melody.notes:
                notes += 1
                inside = (times_T > note.onset_s + 0.06) & (times_T < note.offset_s - 0.06)
                cents_T = 1200 * np.log2(np.maximum(f0_T[inside], 1.0) / note.hertz)
                near += (np.abs(cents_T) < 50).tolist()
                voiced += (voicing_T[inside] >= 0.5).tolist()
        shown.add_row(
            name, str(notes), f"{np.mean(near):.3f}", f"{np.mean(voiced):.3f}",
            f"{np.mean(silent):.3f}", f"{heard_s / taken_s:.2f}",
        )  # fmt: skip
    console = Console(highlight=False, width=110)
    console.print(shown)
    console.print(describe())


if __name__ == "__main__":
    main()
