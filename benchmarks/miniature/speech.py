"""Synthesises speech with flite, whose Debian packages include four voices."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.miniature.audio import Row, write
from examples.demo.debian import unpack

RATE = 16000
VOICES = ("slt", "rms", "awb", "kal16")
"""Name -> voice of flite: one woman and three men."""
DETERMINERS = ("the", "a", "my", "your", "one", "this", "every", "no")
ADJECTIVES = (
    "red", "old", "small", "happy", "quiet", "green", "heavy", "clean", "young", "broken", "warm",
    "yellow", "strange", "open", "early", "sweet", "silver", "lazy", "brave", "long",
)  # fmt: skip
NOUNS = (
    "dog", "house", "river", "teacher", "number", "garden", "window", "doctor", "paper", "morning",
    "train", "kitchen", "letter", "village", "bottle", "winter", "machine", "friend", "music",
    "bridge", "horse", "picture", "forest", "market", "island", "engine", "story", "captain",
    "school", "summer", "table", "shoulder", "ticket", "sister", "mountain", "button",
)  # fmt: skip
VERBS = (
    "finds", "sees", "opens", "sells", "follows", "paints", "carries", "loses", "calls", "watches",
    "moves", "needs", "breaks", "likes", "leaves", "builds",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Manner:
    """The way in which a sentence is spoken."""

    stretch: float = 1.0
    """Factor of durations: above 1 is slower."""
    pitch_hz: float | None = None
    """Mean pitch; the voice's own if None."""
    pitch_spread_hz: float | None = None
    """Standard deviation of the pitch; the voice's own if None."""


def say(text: str, voice: str, manner: Manner | None = None) -> np.ndarray:
    """Returns the waveform of a text in a voice, 16 kHz."""
    manner = manner or Manner()
    settings = {"duration_stretch": manner.stretch, "int_f0_target_mean": manner.pitch_hz,
                "int_f0_target_stddev": manner.pitch_spread_hz}  # fmt: skip
    options = [
        word
        for name, value in settings.items()
        if value is not None
        for word in ("--setf", f"{name}={value}")
    ]
    libraries = [
        str(next((unpack(package).parent / "lib").glob("*-linux-gnu")))
        for package in ("libflite1", "libasound2")
    ]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(libraries)}
    program = unpack("flite").parent / "bin" / "flite"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        command = [str(program), "-voice", voice, *options, "-t", text, "-o", str(path)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        wave, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE, rate
    return wave


def phrase(rng: random.Random) -> str:
    """Returns a phrase of two to six common words."""
    thing = f"{rng.choice(DETERMINERS)} {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    short = f"{rng.choice(DETERMINERS)} {rng.choice(NOUNS)}"
    return rng.choice([
        thing,
        f"{short} {rng.choice(VERBS)} {rng.choice(NOUNS)}",
        f"{thing} {rng.choice(VERBS)}",
        f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}",
        f"{short} {rng.choice(VERBS)} {rng.choice(DETERMINERS)} {rng.choice(NOUNS)}",
    ])  # fmt: skip


def spoken_phrases(out: Path, count: int) -> Iterator[Row]:
    """Yields phrases in four voices with different speeds and levels."""
    for number in range(count):
        rng = random.Random(f"phrase {number}")
        text = phrase(rng)
        voice = VOICES[number % len(VOICES)]
        wave = say(text, voice, Manner(stretch=rng.uniform(0.8, 1.1))) * rng.uniform(0.4, 1.0)
        path = out / "phrases" / f"{number:04d}-{voice}.wav"
        yield write(path, wave, RATE, collection="phrases", key=f"phrase {text}", text=text,
                    kind="speech", voice=voice)  # fmt: skip
