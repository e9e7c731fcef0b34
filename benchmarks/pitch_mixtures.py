"""Measures pitch trackers on mixtures of known notes with speech and drums.

    COAT_DEBIAN_ROOT=... python -m benchmarks.pitch_mixtures [--rmvpe rmvpe.onnx]

Notes of seven instruments from a soundfont (Debian: timgm6mb-soundfont), whose pitch and times are
exact, alone and mixed with spoken prompts (Debian: asterisk-core-sounds-en-g722) and with a beat of
the soundfont's own drum kit, so that the notes are as loud as each of them, or half as loud. Raw
pitch accuracy: frames well inside a note within 50 cents. Voicing: frames inside notes with voicing
of a half and more; false alarms: frames between notes with it (under speech these may be the
voice, so they count for drums alone).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import soxr
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from examples.demo.soundfont import DRUMS, Note, SoundFont
from teachers import registry
from tests.debian_audio import MELODY_RATE, Melody, files, melodies, prompts

RATE = 16_000
BEAT_S = 0.5
KICK, SNARE, HAT = 36, 38, 42
EDGE_S = 0.06
"""Seconds at the ends of a note whose frames are not counted."""
MIXTURES = {
    "notes alone": (0.0, 0.0),
    "+ speech": (1.0, 0.0),
    "+ drums": (0.0, 1.0),
    "+ speech + drums": (1.0, 1.0),
    "+ speech + drums, twice as loud": (2.0, 2.0),
}
"""Name -> loudness of speech and drums, as RMS relative to that of the notes."""


def drum_beat(seconds: float) -> np.ndarray:
    """Plays a kick on one and three, a snare on two and four, and a hi-hat on every eighth."""
    font = SoundFont(files("timgm6mb-soundfont", "usr/share/sounds/sf2/TimGM6mb.sf2"), bank=DRUMS)
    notes = []
    for eighth in range(int(seconds / (BEAT_S / 2))):
        onset = eighth * BEAT_S / 2
        keys = [HAT] + ([SNARE if eighth % 4 else KICK] if eighth % 2 == 0 else [])
        notes += [Note(onset, onset + BEAT_S / 2, key) for key in keys]
    return soxr.resample(font.play(0, notes, seconds), MELODY_RATE, RATE)


def mix_melodies(
    notes_each: int, speech: float, drums: float
) -> Iterator[tuple[np.ndarray, Melody]]:
    """Yields melodies mixed with speech and drums, at 16 kHz."""
    spoken = np.concatenate([wave for wave, _ in prompts(24)])
    for row, melody in enumerate(melodies(notes_each=notes_each)):
        wave = soxr.resample(melody.samples, MELODY_RATE, RATE)
        level = rms(wave)
        # Each melody is mixed with other words.
        voice = np.roll(spoken, -row * 7 * RATE)[: len(wave)]
        beat = drum_beat(len(wave) / RATE)[: len(wave)]
        for other, times in ((voice, speech), (beat, drums)):
            if times:
                wave = wave + np.pad(other, (0, len(wave) - len(other))) * (
                    times * level / rms(other)
                )
        yield (wave * 0.5 / np.abs(wave).max()).astype(np.float32), melody


def rms(wave: np.ndarray) -> float:
    """Returns the root mean square of the samples that are not silent."""
    loud = np.abs(wave) > 1e-3 * np.abs(wave).max()
    return float(np.sqrt(np.square(wave[loud]).mean()))


def scores(teacher: Any, clips: Iterator[tuple[np.ndarray, Melody]]) -> tuple[float, ...]:
    """Returns raw pitch accuracy, voicing in notes, false alarms, and CPU s per s of audio."""
    hop_s = teacher.spec().stream("f0").hop_s
    near, voiced, alarms = [], [], []
    heard_s = taken_s = 0.0
    for wave, melody in clips:
        start = time.process_time()
        f0_T, voicing_T = teacher.extract([wave])[0].frames["f0"].T
        taken_s += time.process_time() - start
        heard_s += len(wave) / RATE
        times_T = np.arange(len(f0_T)) * hop_s
        is_note_T = np.zeros(len(f0_T), bool)
        for note in melody.notes:
            inside = (times_T > note.onset_s + EDGE_S) & (times_T < note.offset_s - EDGE_S)
            cents_T = 1200 * np.log2(np.maximum(f0_T[inside], 1.0) / note.hertz)
            near += (np.abs(cents_T) < 50).tolist()
            voiced += (voicing_T[inside] >= 0.5).tolist()
            is_note_T |= (times_T > note.onset_s - EDGE_S) & (times_T < note.offset_s + 2 * EDGE_S)
        alarms += (voicing_T[~is_note_T] >= 0.5).tolist()
    return float(np.mean(near)), float(np.mean(voiced)), float(np.mean(alarms)), taken_s / heard_s


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rmvpe", default="", help="RMVPE's .onnx file, to measure it too")
    parser.add_argument("--notes", type=int, default=4, help="notes of each instrument")
    options = parser.parse_args()
    every = tuple(MIXTURES)
    trackers: dict[str, tuple[str, dict[str, Any], int, tuple[str, ...]]] = {
        "SwiftF0": ("swift_f0", {}, options.notes, every),
        "CREPE tiny": ("crepe", {"model": "tiny"}, options.notes, every),
        # Thirty times slower than tiny.
        "CREPE full": ("crepe", {"model": "full"}, 1, (every[0], every[3])),
    }
    if options.rmvpe:
        trackers["RMVPE"] = ("rmvpe", {"model": options.rmvpe}, options.notes, every)
    console = Console(highlight=False, width=110)
    shown = Table("mixture", "tracker", title="Pitch of notes in mixtures, one thread")
    for heading in ("notes", "within 50 cents", "voiced in notes", "false alarms", "CPU s per s"):
        shown.add_column(heading, justify="right")
    for name, (family, settings, notes, mixtures) in trackers.items():
        teacher = registry.make("pitch", family, settings)
        teacher.load(device="cpu", num_threads=1)
        for mixture in mixtures:
            speech, drums = MIXTURES[mixture]
            near, voiced, alarms, cost = scores(teacher, mix_melodies(notes, speech, drums))
            print(name, mixture, f"{near:.3f} {voiced:.3f} {alarms:.3f}", file=sys.stderr)
            shown.add_row(
                mixture, name, str(7 * notes), f"{near:.3f}", f"{voiced:.3f}",
                "-" if speech else f"{alarms:.3f}", f"{cost:.3f}",
            )  # fmt: skip
    console.print(shown)
    if not options.rmvpe:
        console.print("RMVPE was not measured: its weights come in no wheel (--rmvpe FILE).")
    console.print(describe())


if __name__ == "__main__":
    main()
