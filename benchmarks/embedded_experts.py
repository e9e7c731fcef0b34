"""Compares the embedded preset's experts with alternatives from wheels, on labelled real audio.

    COAT_DEBIAN_ROOT=... python -m benchmarks.embedded_experts [--tasks pitch,events]

Speech: word errors on spoken prompts (Debian: asterisk-core-sounds-en-g722). Pitch: frames within
50 cents of notes of seven instruments (timgm6mb-soundfont), and the share of frames with
voicing of a half inside notes and outside them. Events: any right class first, or among the first
five, on animal sounds (scratch). Notes: onset F1 by mir_eval, one note at a time and chords. Costs
are CPU seconds of one thread per second of audio.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jiwer
import mir_eval
import numpy as np
import soxr
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from manifests import audio
from manifests.clips import Clip
from teachers import registry
from teachers.protocol import Targets
from tests import debian_audio
from tests.debian_audio import MELODY_RATE, Melody
from tests.teachers.test_quality import ANIMALS

RATE = 16_000
Track = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, float]]
"""Waveform -> f0_T, voicing_T, seconds per frame."""


class Timed:
    """A teacher that counts its CPU seconds."""

    def __init__(self, family: str, settings: dict[str, Any]) -> None:
        self.teacher = registry.make("expert", family, settings)
        self.teacher.load(device="cpu", num_threads=1)
        self.rate = self.teacher.spec().sample_rate
        self._cpu_s = self._audio_s = 0.0

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        start = time.process_time()
        targets = self.teacher.extract(waves)
        self._cpu_s += time.process_time() - start
        self._audio_s += sum(map(len, waves)) / self.rate
        return targets

    @property
    def cost(self) -> str:
        """CPU seconds per second of audio."""
        return f"{self._cpu_s / self._audio_s:.3f}"


def words(text: str) -> str:
    """Returns a text in lower case without punctuation."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def speech() -> Iterator[tuple[str, str, str]]:
    """Measures Whisper tiny.en, the only recogniser in a wheel, in two precisions."""
    spoken = debian_audio.prompts(12)
    for compute in ("float32", "int8"):
        expert = Timed("whisper_ct2", {"compute_type": compute})
        transcripts = [
            words(targets.metadata["text"]) for targets in expert.extract([w for w, _ in spoken])
        ]
        error = jiwer.wer([words(text) for _, text in spoken], transcripts)
        yield f"Whisper tiny.en, {compute}", f"word errors {error:.1%}", expert.cost


def pitch() -> Iterator[tuple[str, str, str]]:
    """Measures pitch trackers on single notes; `benchmarks.pitch` has CREPE full, which is slow."""
    trackers = {
        "CREPE tiny": ("crepe", {"model": "tiny"}, 6),
        "SwiftF0": ("swift_f0", {}, 6),
    }
    for name, (family, settings, notes_each) in trackers.items():
        expert = Timed(family, settings)
        hop_s = expert.teacher.spec().stream("f0").hop_s

        def track(wave: np.ndarray, expert: Timed = expert, hop_s: float = hop_s):
            f0_T, voicing_T = expert.extract([wave])[0].frames["f0"].T
            return f0_T, voicing_T, hop_s

        yield name, _pitch_scores(track, notes_each), expert.cost


def _pitch_scores(track: Track, notes_each: int) -> str:
    near, voiced, alarms = [], [], []
    for melody in debian_audio.melodies(notes_each=notes_each):
        wave = soxr.resample(melody.samples, MELODY_RATE, RATE).astype(np.float32)
        f0_T, voicing_T, hop_s = track(wave)
        times_T = hop_s * np.arange(len(f0_T))
        is_note_T = np.zeros(len(f0_T), bool)
        for note in melody.notes:
            inside_T = (times_T > note.onset_s + 0.06) & (times_T < note.offset_s - 0.06)
            cents_T = 1200 * np.log2(np.maximum(f0_T[inside_T], 1.0) / note.hertz)
            near += (np.abs(cents_T) < 50).tolist()
            voiced += (voicing_T[inside_T] >= 0.5).tolist()
            is_note_T |= (times_T > note.onset_s - 0.06) & (times_T < note.offset_s + 0.12)
        alarms += (voicing_T[~is_note_T] >= 0.5).tolist()
    return (
        f"within 50 cents {np.mean(near):.3f}, voiced {np.mean(voiced):.3f} in notes and "
        f"{np.mean(alarms):.3f} between"
    )


def events() -> Iterator[tuple[str, str, str]]:
    """Measures YAMNet with its default step, a finer one and a coarser one."""
    files = debian_audio.sounds("Animal")
    clips = [Clip(clip_id=name, uri=str(file)) for name, file in files.items()]
    waves = [audio.load(clip, RATE) for clip in clips]
    for hop_s in (0.96, 0.48, 0.24):
        expert = Timed("yamnet", {"hop_s": hop_s})
        names = expert.teacher.spec().streams[0].names
        first, five = [], []
        for targets in expert.extract(waves):
            order = [names[column] for column in targets.frames["events"].mean(0).argsort()[::-1]]
            first.append(order[0] in ANIMALS)
            five.append(bool(ANIMALS & set(order[:5])))
        yield (
            f"YAMNet, every {hop_s} s", f"right first {np.mean(first):.2f}, "
            f"among five {np.mean(five):.2f}", expert.cost,
        )  # fmt: skip


def notes() -> Iterator[tuple[str, str, str]]:
    """Measures Basic Pitch with different thresholds."""
    for onset in (0.4, 0.5, 0.6):
        expert = Timed("basic_pitch", {"onset_threshold": onset})
        scores = []
        for chords in (False, True):
            measured = [
                _note_f1(expert, melody)
                for melody in debian_audio.melodies(chords=chords, notes_each=6)
            ]
            scores.append(float(np.mean(measured)))
        yield (
            f"Basic Pitch, onset_threshold {onset}",
            f"onset F1 {scores[0]:.3f} of single notes, {scores[1]:.3f} of chords", expert.cost,
        )  # fmt: skip


def _note_f1(expert: Timed, melody: Melody) -> float:
    wave = soxr.resample(melody.samples, MELODY_RATE, expert.rate)
    written = expert.extract([wave])[0].metadata["notes"]
    return mir_eval.transcription.precision_recall_f1_overlap(
        np.array([[note.onset_s, note.offset_s] for note in melody.notes]),
        np.array([note.hertz for note in melody.notes]),
        np.array([[onset, offset] for onset, offset, *_ in written]),
        np.array([440 * 2 ** ((midi - 69) / 12) for _, _, midi, _ in written]),
        offset_ratio=None,
    )[2]


def voice() -> Iterator[tuple[str, str, str]]:
    """Measures openSMILE's descriptors; no wheel has a network for emotion."""
    expert = Timed("egemaps", {})

    def track(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        semitones_T = expert.extract([wave])[0].frames["lld"][:, 10]
        # Frame 0 is at 30 ms; trackers begin at 0.
        f0_T = np.pad(27.5 * 2 ** (semitones_T / 12), (3, 0), mode="edge")
        return f0_T, np.pad((semitones_T > 0).astype(float), (3, 0)), 0.01

    yield "eGeMAPS (F0)", _pitch_scores(track, 6), expert.cost


def main() -> None:
    """Runs the program."""
    tasks = {
        "speech": speech, "pitch": pitch, "voice": voice, "events": events, "notes": notes
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default=",".join(tasks), help="tasks to measure")
    options = parser.parse_args()
    shown = Table("task", "expert", title="Embedded experts, one thread")
    shown.add_column("quality")
    shown.add_column("CPU s per s", justify="right")
    for task in options.tasks.split(","):
        for row in tasks[task]():
            shown.add_row(task, *row)
            print(task, *row, sep=" | ", file=sys.stderr, flush=True)
    console = Console(highlight=False, width=130)
    console.print(shown)
    console.print(describe())


if __name__ == "__main__":
    main()
