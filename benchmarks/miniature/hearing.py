"""Sounds for questions that need the experts' outputs: pitch, time, voices, manner, mixtures.

Labels such as drum or language can be predicted from an average over the clip. These cannot: the
direction of a pitch glide, the interval between two notes, the order and number of events,
whether one or two people speak, the manner of speaking, and a second instrument. All clips are
synthesised, so that the classes differ only in the answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.miniature import audio
from benchmarks.miniature.audio import FONTS, SAMPLE_RATE, Note, Row, SoundFont, write
from benchmarks.miniature.speech import NOUNS, RATE, Manner, say
from benchmarks.miniature.task import Task
from examples.demo.debian import unpack

GLIDES = {"up": (1,), "down": (-1,), "up then down": (1, -1), "down then up": (-1, 1)}
INTERVALS = {"the same note": 0, "a third": 4, "a fifth": 7, "an octave": 12}
COUNTS = {"two": 2, "three": 3, "four": 4}
HITS = ("kick", "snare", "hi-hat")
SPEAKERS = ("one", "two")
MANNERS = ("calm", "excited", "sad")
PARTNERS = ("guitar", "violin", "trumpet", "flute")
KNOWN_VOICES, NEW_VOICES = ("slt", "rms", "kal16"), ("awb", "slt")
MEAN_PITCH_HZ = {"slt": 170.0, "rms": 100.0, "kal16": 105.0, "awb": 120.0}

TASKS = {
    "glide": Task(question="How does the pitch move?", label="glide", choices=tuple(GLIDES)),
    "interval": Task(question="How far apart are the two notes?", label="interval",
                     choices=tuple(INTERVALS)),
    "count": Task(question="How many hits are there?", label="count", choices=tuple(COUNTS)),
    "first": Task(question="Which drum is hit first?", label="first", choices=HITS),
    "speakers": Task(question="Do one or two people speak?", label="speakers", choices=SPEAKERS),
    "manner": Task(question="How is it said?", label="manner", choices=MANNERS),
    "mixture": Task(question="Which instrument plays beside the piano?", label="mixture",
                    choices=PARTNERS),
}  # fmt: skip


def known_rows(out: Path, each: int) -> Iterator[Row]:
    """Yields clips for training and testing, `each` per kind of sound."""
    yield from glides(out, each)
    yield from intervals(out, "TimGM6mb", each)
    yield from hits(out, each, new_kits=False)
    yield from speakers(out, KNOWN_VOICES, each)
    yield from manners(out, KNOWN_VOICES, each)
    yield from mixtures(out, "TimGM6mb", each)


def new_rows(out: Path, each: int) -> Iterator[Row]:
    """Yields clips of sources that are not used for training: other soundfont, kits and voice."""
    yield from intervals(out, "FluidR3", each)
    yield from hits(out, each, new_kits=True)
    yield from speakers(out, NEW_VOICES, each)
    yield from manners(out, NEW_VOICES[:1], each)
    yield from mixtures(out, "FluidR3", each)


def glides(out: Path, count: int) -> Iterator[Row]:
    """Yields harmonic tones whose pitch moves by four to twelve semitones."""
    for number in range(count):
        rng = random.Random(f"glide {number}")
        name, signs = list(GLIDES.items())[number % len(GLIDES)]
        seconds, size = rng.uniform(0.7, 1.5), rng.uniform(4, 12)
        turns = np.cumsum([0, *signs]) * size
        times = np.arange(int(seconds * RATE)) / RATE
        semitones = np.interp(times, np.linspace(0, seconds, len(turns)), turns)
        pitch_hz = rng.uniform(130, 330) * 2 ** (semitones / 12)
        phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE
        tilt = rng.uniform(0.8, 2.0)
        wave = sum(np.sin(k * phase) / k**tilt for k in range(1, 9))
        noise = np.random.default_rng(number).standard_normal(len(times))
        wave = rng.uniform(0.1, 0.3) * wave + 0.003 * noise
        yield write(out / "glides" / f"{number:04d}.wav", wave.astype(np.float32), RATE,
                    collection="glides", glide=name, kind="sound")  # fmt: skip


def intervals(out: Path, font_name: str, count: int) -> Iterator[Row]:
    """Yields two notes of one instrument, the second above or below the first."""
    font = _font(font_name)
    for number in range(count):
        rng = random.Random(f"interval {font_name} {number}")
        name, distance = list(INTERVALS.items())[number % len(INTERVALS)]
        program, lowest, highest = rng.choice(list(audio.INSTRUMENTS.values()))
        low = rng.randint(lowest, highest - distance)
        keys = [low, low + distance]
        rng.shuffle(keys)
        length = rng.uniform(0.4, 0.7)
        score = [Note(0.05 + place * length, 0.05 + (place + 0.9) * length, key)
                 for place, key in enumerate(keys)]  # fmt: skip
        wave = font.play(program, score, score[-1].offset_s + 0.1) * rng.uniform(0.3, 1.0)
        yield write(out / "intervals" / f"{font_name}-{number:04d}.wav", wave, SAMPLE_RATE,
                    collection="intervals", interval=name, kind="music")  # fmt: skip


def hits(out: Path, count: int, *, new_kits: bool) -> Iterator[Row]:
    """Yields two to four drum hits in a row, at even or uneven distances."""
    samples: dict[str, list[Path]] = {name: [] for name in HITS}
    for row in audio.drums(out, new_kits=new_kits):
        if row["labels"]["drum"] in samples:
            samples[row["labels"]["drum"]].append(Path(row["audio_filepath"]))
    source = "new" if new_kits else "known"
    for number in range(count):
        rng = random.Random(f"hits {source} {number}")
        name, amount = list(COUNTS.items())[number % len(COUNTS)]
        first = HITS[number // len(COUNTS) % len(HITS)]
        wave = np.zeros(int(1.85 * RATE), np.float32)
        start = rng.uniform(0.02, 0.1)
        for drum in [first, *(rng.choice(HITS) for _ in range(amount - 1))]:
            hit = _resampled(rng.choice(samples[drum]))[: int(0.35 * RATE)]
            place = int(start * RATE)
            hit = hit[: len(wave) - place] * rng.uniform(0.4, 0.9) / max(np.abs(hit).max(), 1e-3)
            wave[place : place + len(hit)] += hit
            start += rng.uniform(0.25, 0.45)
        end = min(len(wave), int((start + 0.1) * RATE))
        yield write(out / "hits" / f"{source}-{number:04d}.wav", wave[:end], RATE,
                    collection="hits", count=name, first=first, kind="sound")  # fmt: skip


def speakers(out: Path, voices: tuple[str, ...], count: int) -> Iterator[Row]:
    """Yields two words, spoken by one voice or by two."""
    for number in range(count):
        rng = random.Random(f"speakers {voices} {number}")
        name = SPEAKERS[number % len(SPEAKERS)]
        first = rng.choice(voices)
        second = first if name == "one" else rng.choice([each for each in voices if each != first])
        words = rng.sample(NOUNS, 2)
        pieces = [_level(say(word, voice, Manner(stretch=0.8)))
                  for word, voice in zip(words, (first, second), strict=True)]  # fmt: skip
        wave = np.concatenate([pieces[0], np.zeros(800, np.float32), pieces[1]])
        yield write(out / "speakers" / f"{voices[0]}-{number:04d}.wav", wave, RATE,
                    collection="speakers", speakers=name, kind="speech")  # fmt: skip


def manners(out: Path, voices: tuple[str, ...], count: int) -> Iterator[Row]:
    """Yields phrases that are spoken calmly, excitedly or sadly, by rate, pitch and level."""
    settings = {"calm": (1.0, 1.0, 12.0, 0.6), "excited": (0.8, 1.3, 35.0, 0.9),
                "sad": (1.3, 0.88, 5.0, 0.35)}  # fmt: skip
    for number in range(count):
        rng = random.Random(f"manner {voices} {number}")
        name = MANNERS[number % len(MANNERS)]
        voice = voices[number // len(MANNERS) % len(voices)]
        stretch, pitch, spread, level = settings[name]
        manner = Manner(stretch=stretch * rng.uniform(0.92, 1.08),
                        pitch_hz=MEAN_PITCH_HZ[voice] * pitch * rng.uniform(0.95, 1.05),
                        pitch_spread_hz=spread * rng.uniform(0.8, 1.2))  # fmt: skip
        wave = _level(say(" ".join(rng.sample(NOUNS, 2)), voice, manner))
        wave = wave * level * rng.uniform(0.7, 1.1)
        yield write(out / "manners" / f"{voice}-{number:04d}.wav", wave, RATE, collection="manners",
                    manner=name, kind="speech")  # fmt: skip


def mixtures(out: Path, font_name: str, count: int) -> Iterator[Row]:
    """Yields a piano note together with a note of another instrument."""
    font = _font(font_name)
    for number in range(count):
        rng = random.Random(f"mixture {font_name} {number}")
        name = PARTNERS[number % len(PARTNERS)]
        seconds = rng.uniform(0.8, 1.2)
        waves = []
        for instrument in ("piano", name):
            program, lowest, highest = audio.INSTRUMENTS[instrument]
            key, begin = rng.randint(lowest, highest), rng.uniform(0.02, 0.15)
            wave = font.play(program, [Note(begin, seconds, key)], seconds + 0.1)
            waves.append(_level(wave) * rng.uniform(0.5, 1.0))
        wave = 0.5 * (waves[0] + waves[1])
        yield write(out / "mixtures" / f"{font_name}-{number:04d}.wav", wave, SAMPLE_RATE,
                    collection="mixtures", mixture=name, kind="music")  # fmt: skip


def _font(name: str) -> SoundFont:
    package, file = FONTS[name]
    return SoundFont(unpack(package) / "sounds" / "sf2" / file)


def _level(wave: np.ndarray) -> np.ndarray:
    return wave * (0.8 / max(float(np.abs(wave).max()), 1e-3))


def _resampled(path: Path) -> np.ndarray:
    wave, rate = soundfile.read(path, dtype="float32")
    place = np.arange(0, len(wave) - 1, rate / RATE)
    return np.interp(place, np.arange(len(wave)), wave).astype(np.float32)
