"""Creates the demo's source: 140 clips of real audio, and a JSON-lines manifest of them.

    python -m examples.demo.corpus --out demo/source
    coat-corpus build demo/source/clips.jsonl --out demo/corpus

Speech with transcripts (Asterisk's voice prompts), sound events (Scratch's library) and notes with
exact ground truth (played from a soundfont's recordings) come from Debian packages, which are
downloaded into a cache folder and not installed. If a package is not available, synthetic audio
replaces it, and the terminal reports this. The same packages give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import soundfile

from examples.demo import synthetic
from examples.demo.debian import PackageUnavailable, unpack
from examples.demo.soundfont import SAMPLE_RATE, Note, SoundFont, additive

Item = TypeVar("Item")
Row = dict[str, Any]

NUM_SPEECH, NUM_SOUNDS, NUM_NOTES = 45, 35, 60
VOICE = "en_US_f_Allison"
SOUND_CATEGORIES = ("Animal", "Effects", "Human", "Percussion")
LOWEST, HIGHEST = 52, 76
"""MIDI notes that all instruments share: two octaves, so that a few hundred notes cover each."""
INSTRUMENTS = {
    "piano": 0,
    "guitar": 24,
    "violin": 40,
    "cello": 42,
    "trumpet": 56,
    "clarinet": 71,
    "flute": 73,
}
"""Name -> General MIDI program."""
PLAYED = {
    "piano": "struck",
    "guitar": "struck",
    "violin": "bowed",
    "cello": "bowed",
    "trumpet": "blown",
    "clarinet": "blown",
    "flute": "blown",
}
"""Name -> how it is played; a guitar's string decays like a piano's."""


def speech(out: Path) -> Iterator[Row]:
    """Yields prompts of 1 to 6 s with at least four words, at 16 kHz."""
    package = "asterisk-core-sounds-en-g722"
    prompts = unpack(package) / "asterisk" / "sounds" / VOICE
    listing = (
        unpack("asterisk-core-sounds-en") / "doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    )
    lines = gzip.decompress(listing.read_bytes()).decode("utf-8-sig").splitlines()
    items = []
    for key, colon, text in (line.partition(": ") for line in lines):
        file = prompts / f"{key}.g722"
        transcript = " ".join(text.strip(" .").split())
        is_plain = re.fullmatch(r"[A-Za-z' ,.;?!-]+", transcript) and len(transcript.split()) >= 4
        if colon and is_plain and file.exists() and 1 <= file.stat().st_size / 8000 <= 6:
            items.append((file, key.replace("/", "-"), transcript))
    for file, key, transcript in _spread(sorted(items), NUM_SPEECH):
        path = out / "speech" / f"{key}.wav"
        with av.open(str(file), format="g722") as container:
            frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
        soundfile.write(path, np.concatenate(frames), 16000, subtype="PCM_16")
        labels = {"kind": "speech", "sound": "speech", "source": "speech", "language": "en",
                  "speaker": "Allison Smith", "words": number_of_words(transcript)}  # fmt: skip
        yield _row(path, transcript, labels, package, "CC-BY-SA-3.0")


def synthetic_speech(out: Path) -> Iterator[Row]:
    """Yields sentences by espeak-ng."""
    espeak = synthetic.Espeak()
    for number, text in enumerate(synthetic.SENTENCES[:NUM_SPEECH]):
        path = out / "speech" / f"espeak-{number:02d}.wav"
        soundfile.write(path, espeak.say(text), espeak.sample_rate, subtype="PCM_16")
        labels = {"kind": "speech", "sound": "speech", "source": "speech", "language": "en",
                  "synthetic": True, "words": number_of_words(text)}  # fmt: skip
        yield _row(path, text, labels, synthetic.ESPEAK, synthetic.ESPEAK_LICENCE)


def sounds(out: Path) -> Iterator[Row]:
    """Yields sounds of animals, people and things: unchanged wav and mp3 files."""
    package = "scratch"
    library = unpack(package) / "scratch" / "Media" / "Sounds"
    files = [
        file
        for category in SOUND_CATEGORIES
        for file in sorted((library / category).iterdir())
        if 0.4 <= soundfile.info(file).duration <= 12
    ]
    for file in _spread(files, NUM_SOUNDS):
        path = out / "sounds" / file.name
        shutil.copyfile(file, path)
        words = re.findall(r"[A-Z]?[a-z]+", file.stem)
        name = " ".join(words).lower().removesuffix(" female").removesuffix(" male")
        labels = {"kind": "sound event", "sound": name, "category": file.parent.name.lower()}
        yield _row(path, None, labels, package, "CC-BY-SA-3.0")


def synthetic_sounds(out: Path) -> Iterator[Row]:
    """Yields noise, beeps and similar sounds."""
    for number in range(NUM_SOUNDS):
        name = synthetic.SOUNDS[number % len(synthetic.SOUNDS)]
        path = out / "sounds" / f"{name.replace(' ', '-')}-{number:02d}.wav"
        wave = synthetic.sound(name, 1.5 + number % 4, number)
        soundfile.write(path, wave, synthetic.SAMPLE_RATE, subtype="PCM_16")
        labels = {"kind": "sound event", "sound": name, "synthetic": True}
        yield _row(path, None, labels, "none", "CC0-1.0")


def notes(out: Path) -> Iterator[Row]:
    """Yields melodies, and chords in every fifth clip, played by a soundfont's instruments."""
    package = "timgm6mb-soundfont"
    font = SoundFont(unpack(package) / "sounds" / "sf2" / "TimGM6mb.sf2")
    yield from _notes(out, font.play, package, "GPL-2.0-only")


def synthetic_notes(out: Path) -> Iterator[Row]:
    """Yields the same notes by additive synthesis."""
    yield from _notes(out, lambda _, score, seconds: additive(score, seconds), "none", "CC0-1.0")


def _notes(
    out: Path,
    play: Callable[[int, Sequence[Note], float], np.ndarray],
    package: str,
    licence: str,
) -> Iterator[Row]:
    for number in range(NUM_NOTES):
        name, program = list(INSTRUMENTS.items())[number % len(INSTRUMENTS)]
        score = _score(random.Random(f"notes {number}"), chords=number % 5 == 4)
        path = out / "notes" / f"{name}-{number:02d}.wav"
        seconds = score[-1].offset_s + 0.3
        soundfile.write(path, play(program, score, seconds), SAMPLE_RATE, subtype="PCM_16")
        times = [[note.onset_s, note.offset_s, note.midi] for note in score]
        labels = {"kind": "notes", "sound": name, "instrument": name, "notes": times,
                  "source": "music", "played": PLAYED[name],
                  "texture": "chords" if number % 5 == 4 else "single notes",
                  "direction": direction(score)}  # fmt: skip
        yield _row(path, None, labels, package, licence)


def _score(rng: random.Random, *, chords: bool) -> list[Note]:
    """Returns about five seconds of notes."""
    score = []
    time = 0.2
    while time < 4.5:
        length = rng.choice((1.0, 1.5) if chords else (0.4, 0.6, 0.8))
        root = rng.randint(LOWEST, HIGHEST - 7 if chords else HIGHEST)
        for midi in (root, root + rng.choice((3, 4)), root + 7) if chords else (root,):
            score.append(Note(round(time, 3), round(time + length, 3), midi))
        time += length + 0.1
    return score


def number_of_words(text: str) -> str:
    """Returns whether a sentence has few or many words; each applies to half of the prompts."""
    return "eight or more" if len(text.split()) >= 8 else "seven or fewer"


def direction(score: Sequence[Note]) -> str:
    """Returns whether the last note, or the last chord's lowest, is higher than the first."""
    first, last = (
        min(note.midi for note in score if note.onset_s == end)
        for end in (score[0].onset_s, score[-1].onset_s)
    )
    return "higher" if last > first else "lower" if last < first else "as high"


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Chooses `count` items, evenly spread over their order."""
    return [items[number * len(items) // count] for number in range(min(count, len(items)))]


def _row(path: Path, text: str | None, labels: Row, package: str, licence: str) -> Row:
    # The header of an MP3 file may state twice the length.
    wave, rate = soundfile.read(path, dtype="float32")
    return {
        "id": f"{path.parent.name}-{path.stem}",
        "audio_filepath": f"{path.parent.name}/{path.name}",
        "duration": len(wave) / rate,
        "text": text,
        "labels": labels,
        "source_package": package,
        "licence": licence,
    }


def make(out: Path) -> list[Row]:
    """Writes the audio and `clips.jsonl` into a folder, and returns the manifest's rows."""
    rows: list[Row] = []
    for what, real, stand_in in (
        ("speech", speech, synthetic_speech),
        ("sounds", sounds, synthetic_sounds),
        ("notes", notes, synthetic_notes),
    ):
        (out / what).mkdir(parents=True, exist_ok=True)
        try:
            made = list(real(out))
        except PackageUnavailable as reason:
            print(f"NO REAL {what.upper()}: {reason}. Synthesis stands in.")
            try:
                made = list(stand_in(out))
            except PackageUnavailable as second:
                print(f"NO {what.upper()} AT ALL: {second}. The demo goes on without.")
                made = []
        rows += made
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "clips.jsonl").write_text("".join(lines), encoding="utf-8")
    return rows


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description="Make the demo's audio and its manifest.")
    parser.add_argument("--out", type=Path, default=Path("demo/source"), help="folder to write")
    out = parser.parse_args().out
    rows = make(out)
    for package in dict.fromkeys((row["source_package"], row["licence"]) for row in rows):
        mine = [row for row in rows if (row["source_package"], row["licence"]) == package]
        minutes = sum(row["duration"] for row in mine) / 60
        print(f"{len(mine):4d} clips {minutes:5.1f} min  {package[0]} ({package[1]})")
    print(f"{len(rows):4d} clips {sum(row['duration'] for row in rows) / 60:5.1f} min  in {out}")


if __name__ == "__main__":
    main()
