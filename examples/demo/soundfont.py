"""Plays notes from the recorded instruments of a SoundFont file, in numpy.

A synthesiser such as fluidsynth needs a dozen system libraries; single notes without filters and
effects need only the hundred lines below. The notes have exact times and pitches, which are the
ground truth of the demo.

Source: SoundFont Technical Specification 2.04 (sections 7 and 8: structures, generators).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLE_RATE = 44100
DRUMS = 128
"""Number of the bank of drum kits, in which each key is a drum."""
FADE_S = 0.03
"""Length of the fade after a note's end, so that the note ends at the stated time."""

# Generators, section 8.1.2.
ATTACK, HOLD, DECAY, SUSTAIN = 34, 35, 36, 37
INSTRUMENT, KEY_RANGE, VELOCITY_RANGE = 41, 43, 44
COARSE_TUNE, FINE_TUNE, SAMPLE, MODES, ROOT_KEY = 51, 52, 53, 54, 58
SIGNED = (ATTACK, HOLD, DECAY, SUSTAIN, COARSE_TUNE, FINE_TUNE)

RECORDS = {
    b"phdr": np.dtype("S20, <u2, <u2, <u2, <u4, <u4, <u4"),
    b"pbag": np.dtype("<u2, <u2"),
    b"pgen": np.dtype("<u2, <u2"),
    b"inst": np.dtype("S20, <u2"),
    b"ibag": np.dtype("<u2, <u2"),
    b"igen": np.dtype("<u2, <u2"),
    b"shdr": np.dtype("S20, <u4, <u4, <u4, <u4, <u4, u1, i1, <u2, <u2"),
}
"""Chunk -> struct of its records (section 7)."""

Zone = dict[int, int]
"""Generators of a zone: generator -> amount."""


@dataclass(frozen=True, slots=True)
class Note:
    """One note of one instrument."""

    onset_s: float
    offset_s: float
    midi: int
    """60 is middle C; 69 is A at 440 Hz."""

    @property
    def hertz(self) -> float:
        """Fundamental frequency."""
        return 440.0 * 2 ** ((self.midi - 69) / 12)


class SoundFont:
    """The instruments of one bank of a file, by General MIDI program (0 is the grand piano)."""

    def __init__(self, path: Path, *, bank: int = 0) -> None:
        chunks = _chunks(path.read_bytes())
        self._wave = np.frombuffer(chunks[b"smpl"], "<i2")
        self._records = {
            name: np.frombuffer(chunks[name], record) for name, record in RECORDS.items()
        }
        self._presets = {
            int(preset["f1"]): place
            for place, preset in enumerate(self._records[b"phdr"][:-1])
            if preset["f2"] == bank
        }

    def play(self, program: int, notes: Sequence[Note], seconds: float) -> np.ndarray:
        """Returns a waveform of `SAMPLE_RATE` in which an instrument plays notes: float32, mono."""
        wave = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
        for note in notes:
            sound = self._sound(program, note)
            start = round(note.onset_s * SAMPLE_RATE)
            room = wave[start : start + len(sound)]
            room += sound[: len(room)]
        return wave * np.float32(0.5 / max(np.abs(wave).max(), 1e-6))

    def _sound(self, program: int, note: Note) -> np.ndarray:
        time = np.arange(round((note.offset_s - note.onset_s + FADE_S) * SAMPLE_RATE)) / SAMPLE_RATE
        sounds = [self._voice(zone, note.midi, time) for zone in self._zones(program, note.midi)]
        fade = np.clip((time[-1] - time) / FADE_S, 0, 1)
        return (np.mean(sounds, axis=0) * fade).astype(np.float32)

    def _voice(self, zone: Zone, midi: int, time: np.ndarray) -> np.ndarray:
        header = self._records[b"shdr"][zone[SAMPLE]].tolist()
        start, end, loop_start, loop_end, rate, pitch, correction = map(int, header[1:8])
        semitones = midi - zone.get(ROOT_KEY, pitch) + zone.get(COARSE_TUNE, 0)
        cents = 100 * semitones + zone.get(FINE_TUNE, 0) + correction
        place = time * rate * 2 ** (cents / 1200)
        if zone.get(MODES, 0) & 1:
            begin, length = loop_start - start, loop_end - loop_start
            place = np.where(place < begin, place, begin + (place - begin) % length)
        wave = self._wave[start:end] / 32768.0
        return np.interp(place, np.arange(len(wave)), wave, right=0.0) * _envelope(zone, time)

    def _zones(self, program: int, midi: int) -> list[Zone]:
        """Returns the zones of the instruments' samples that a key plays."""
        regions = []
        for preset in self._bags(b"p", self._presets[program], INSTRUMENT):
            if _covers(preset, midi):
                for zone in self._bags(b"i", preset[INSTRUMENT], SAMPLE):
                    if _covers(zone, midi):
                        tuning = {
                            key: zone.get(key, 0) + preset.get(key, 0)
                            for key in (COARSE_TUNE, FINE_TUNE)
                        }
                        regions.append(zone | tuning)
        return regions

    def _bags(self, level: bytes, place: int, target: int) -> list[Zone]:
        """Returns the zones of a preset or instrument, with the defaults of its global zone."""
        owner, column = (b"phdr", "f3") if level == b"p" else (b"inst", "f1")
        first, last = self._records[owner][column][place : place + 2]
        bags = self._records[level + b"bag"]["f0"]
        generators = self._records[level + b"gen"]
        shared: Zone = {}
        zones = []
        for bag in range(first, last):
            entries = generators[bags[bag] : bags[bag + 1]].tolist()
            zone = shared | {
                key: struct.unpack("<h", struct.pack("<H", amount))[0] if key in SIGNED else amount
                for key, amount in entries
            }
            if target in zone:
                zones.append(zone)
            else:
                shared = zone
        return zones


def additive(notes: Sequence[Note], seconds: float) -> np.ndarray:
    """Plays notes by additive synthesis: eight harmonics that decay like a plucked string."""
    wave = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    for note in notes:
        start, end = (round(place * SAMPLE_RATE) for place in (note.onset_s, note.offset_s))
        time = np.arange(end - start) / SAMPLE_RATE
        harmonics = [
            np.sin(2 * np.pi * note.hertz * n * time) * np.exp(-time * n) / n
            for n in range(1, 9)
            if note.hertz * n < SAMPLE_RATE / 2
        ]
        edges = np.clip(np.minimum(time / 0.005, (time[-1] - time) / FADE_S), 0, 1)
        wave[start:end] += np.sum(harmonics, axis=0) * edges
    return wave * np.float32(0.5 / max(np.abs(wave).max(), 1e-6))


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Returns RIFF chunks by name, including those within lists."""
    regions: dict[bytes, bytes] = {}
    lists = [(12, len(data))]
    while lists:
        place, end = lists.pop()
        while place + 8 <= end:
            name, size = struct.unpack_from("<4sI", data, place)
            if name == b"LIST":
                lists.append((place + 12, place + 8 + size))
            else:
                regions[name] = data[place + 8 : place + 8 + size]
            place += 8 + size + size % 2
    return regions


def _covers(zone: Zone, midi: int, velocity: int = 100) -> bool:
    everything = 127 << 8
    return all(
        zone.get(key, everything) & 255 <= value <= zone.get(key, everything) >> 8
        for key, value in ((KEY_RANGE, midi), (VELOCITY_RANGE, velocity))
    )


def _envelope(zone: Zone, time: np.ndarray) -> np.ndarray:
    """Returns a linear attack, a hold, and a decay that is linear in decibels (section 9.1.7)."""
    attack, hold, decay = (2 ** (zone.get(key, -12000) / 1200) for key in (ATTACK, HOLD, DECAY))
    fallen_db = 100 * np.maximum(time - attack - hold, 0) / decay
    sustain_db = zone.get(SUSTAIN, 0) / 10
    return np.minimum(time / attack, 1) * 10 ** (-np.minimum(fallen_db, sustain_db) / 20)
