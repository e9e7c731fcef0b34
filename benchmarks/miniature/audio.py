"""Labelled audio from Debian packages: prompts, digits, words in eight languages, drums, notes.

Each function writes short 16-bit files and yields rows of a JSON-lines manifest. Random draws
depend only on the row's name, so the same packages give the same bytes. Packages are downloaded and
unpacked into a cache folder, as in the demo; nothing is installed.
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from examples.demo.debian import unpack
from examples.demo.soundfont import SAMPLE_RATE, Note, SoundFont

Row = dict[str, Any]

PROMPTS = "asterisk-core-sounds-en-g722"
VOICE = "en_US_f_Allison"
PROMPT_RATE = 16000
MAX_SECONDS = 4.0
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LANGUAGES = {
    "fr": "French", "ru": "Russian", "ro": "Romanian", "ca": "Catalan",
    "bg": "Bulgarian", "es": "Spanish", "be": "Belarusian", "el": "Greek",
}  # fmt: skip
DRUMS = {
    "kick": r"kick|bassdrum|^bd_|_bd|kik|^kd",
    "snare": r"snare|^sn_|_sn_|^sd|snr",
    "hi-hat": r"hihat|hi-hat|hat|hhat|^hh|_hh|hc_|ho_|hp_",
    "cymbal": r"crash|ride|splash|china|cymb",
    "tom": r"tom",
}
"""Class -> words in the names of samples."""
NEW_KITS = ("ColomboAcousticDrumkit", "ElectricEmpireKit", "Millo_MultiLayered2")
"""Drum kits that are used only for testing."""
INSTRUMENTS = {
    "piano": (0, 48, 83),
    "guitar": (24, 45, 76),
    "violin": (40, 57, 88),
    "cello": (42, 40, 69),
    "trumpet": (56, 55, 79),
    "saxophone": (65, 50, 78),
    "clarinet": (71, 52, 81),
    "flute": (73, 62, 88),
}
"""Name -> General MIDI program, lowest and highest note used here."""
PITCH_CLASSES = ("C", "C sharp", "D", "D sharp", "E", "F", "F sharp", "G", "G sharp", "A",
                 "A sharp", "B")  # fmt: skip
MELODIES = {"up": (1, 1), "down": (-1, -1), "up then down": (1, -1), "down then up": (-1, 1)}
SOUND_STAMPS = ("animals", "food", "household", "naturalforces", "vehicles")
"""Categories of Tux Paint's stamps whose sounds are neither speech nor music."""
FONTS = {
    "TimGM6mb": ("timgm6mb-soundfont", "TimGM6mb.sf2"),
    "FluidR3": ("fluid-soundfont-gm", "FluidR3_GM.sf2"),
}
"""Soundfont -> Debian package, file; the second is used only for testing."""


def spoken_prompts(out: Path, count: int) -> Iterator[Row]:
    """Yields telephone prompts of up to 4 s, one voice, with transcripts."""
    text_file = "doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    listing = gzip.decompress((unpack("asterisk-core-sounds-en") / text_file).read_bytes())
    clips = []
    for key, colon, text in (line.partition(": ") for line in listing.decode().splitlines()):
        file = unpack(PROMPTS) / "asterisk/sounds" / VOICE / f"{key}.g722"
        transcript = normal(text)
        is_plain = re.fullmatch(r"[A-Za-z' ,.;?!-]+", text.strip()) and len(transcript.split()) >= 2
        if colon and is_plain and file.exists() and file.stat().st_size / 8000 <= MAX_SECONDS - 0.1:
            clips.append((key, transcript, file))
    for key, transcript, file in shuffled(clips, "prompts")[:count]:
        path = out / "prompts" / f"{key.replace('/', '-')}.wav"
        yield write(
            path, _g722(file), PROMPT_RATE, collection="prompts", text=transcript, kind="speech"
        )


def spoken_digits(out: Path, count: int) -> Iterator[Row]:
    """Yields three or four recorded digits in a row, with different speeds and levels."""
    folder = unpack(PROMPTS) / "asterisk/sounds" / VOICE / "digits"
    spoken = [_trimmed(_g722(folder / f"{digit}.g722")) for digit in range(10)]
    for number in range(count):
        rng = random.Random(f"digits {number}")
        chosen = [rng.randrange(10) for _ in range(rng.choice((3, 4)))]
        pieces = [np.zeros(1600, np.float32)]
        for digit in chosen:
            wave = _faster(spoken[digit], rng.uniform(1.0, 1.25)) * rng.uniform(0.3, 1.0)
            pieces += [wave, np.zeros(rng.randrange(200, 1600), np.float32)]
        wave = np.concatenate(pieces)
        wave += 0.003 * np.random.default_rng(number).standard_normal(len(wave))
        text = " ".join(DIGITS[digit] for digit in chosen)
        path = out / "digits" / f"{number:04d}.wav"
        yield write(path, wave[: int(MAX_SECONDS * PROMPT_RATE)], PROMPT_RATE, collection="digits",
                    text=text, kind="speech")  # fmt: skip


def languages(out: Path, each: int) -> Iterator[Row]:
    """Yields names of things in eight languages.

    The word is the key, so that it is held out in all languages.

    There are few speakers per language, so the language or its speakers are distinguished.
    """
    stamps = unpack("tuxpaint-stamps-default") / "tuxpaint" / "stamps"
    for code, language in LANGUAGES.items():
        files = [
            file
            for file in sorted(stamps.rglob(f"*_desc_{code}.ogg"))
            if file.stat().st_size > 2000 and 0.5 <= soundfile.info(file).duration <= MAX_SECONDS
        ]
        for file in shuffled(files, f"language {code}")[:each]:
            word = file.stem.rpartition("_desc_")[0]
            wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
            path = out / "languages" / f"{code}-{file.parent.name}-{word}.wav"
            yield write(path, wave.mean(1), rate, collection="languages", key=f"word {word}",
                        language=language, kind="speech")  # fmt: skip


def drums(out: Path, *, new_kits: bool) -> Iterator[Row]:
    """Yields drum hits of Hydrogen's kits, cut to 1.5 s."""
    files = [
        file
        for package in ("hydrogen-data", "hydrogen-drumkits")
        for file in sorted((unpack(package) / "hydrogen/data/drumkits").rglob("*"))
        if file.suffix.lower() in (".wav", ".flac", ".aiff")
        and (file.parent.name in NEW_KITS) == new_kits
    ]
    for file in files:
        stem = file.stem.lower()
        drum = next((name for name, words in DRUMS.items() if re.search(words, stem)), None)
        if drum is None:
            continue
        wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
        wave = wave.mean(1)[: int(1.5 * rate)]
        if len(wave) < 0.12 * rate or np.abs(wave).max() < 1e-3:
            continue
        path = out / "drums" / f"{file.parent.name}-{file.stem}.wav".replace(" ", "-")
        yield write(path, wave, rate, collection="drums", drum=drum, kind="sound")


def notes(out: Path, font_name: str, count: int) -> Iterator[Row]:
    """Yields single notes of eight instruments."""
    font = _font(font_name)
    for number in range(count):
        rng = random.Random(f"note {font_name} {number}")
        name, (program, lowest, highest) = list(INSTRUMENTS.items())[number % len(INSTRUMENTS)]
        midi, length = rng.randint(lowest, highest), rng.uniform(0.6, 1.1)
        begin = rng.uniform(0.02, 0.2)
        wave = font.play(program, [Note(begin, begin + length, midi)], begin + length + 0.1)
        path = out / "notes" / f"{font_name}-{number:04d}.wav"
        yield write(path, wave * rng.uniform(0.3, 1.0), SAMPLE_RATE, collection="notes",
                    instrument=name, note=PITCH_CLASSES[midi % 12], kind="music")  # fmt: skip


def melodies(out: Path, font_name: str, count: int) -> Iterator[Row]:
    """Yields three notes of one instrument that go up or down by two to nine semitones."""
    font = _font(font_name)
    for number in range(count):
        rng = random.Random(f"melody {font_name} {number}")
        name, (program, lowest, highest) = list(INSTRUMENTS.items())[number % len(INSTRUMENTS)]
        direction, signs = list(MELODIES.items())[number // len(INSTRUMENTS) % len(MELODIES)]
        while True:
            steps = [sign * rng.randint(2, 9) for sign in signs]
            first = rng.randint(lowest, highest)
            keys = [first, first + steps[0], first + sum(steps)]
            if lowest <= min(keys) and max(keys) <= highest:
                break
        length = rng.uniform(0.3, 0.5)
        score = [Note(0.05 + place * length, 0.05 + (place + 0.9) * length, key)
                 for place, key in enumerate(keys)]  # fmt: skip
        wave = font.play(program, score, score[-1].offset_s + 0.1)
        path = out / "melodies" / f"{font_name}-{number:04d}.wav"
        yield write(path, wave * rng.uniform(0.3, 1.0), SAMPLE_RATE, collection="melodies",
                    instrument=name, melody=direction, kind="music")  # fmt: skip


def other_sounds(out: Path, count: int) -> Iterator[Row]:
    """Yields sounds that are neither speech nor music, such as animals and machines."""
    stamps = unpack("tuxpaint-stamps-default") / "tuxpaint" / "stamps"
    scratch = unpack("scratch") / "scratch" / "Media" / "Sounds"
    files = [
        file
        for file in sorted([*stamps.rglob("*.ogg"), *stamps.rglob("*.wav")])
        if "_desc" not in file.stem and file.relative_to(stamps).parts[0] in SOUND_STAMPS
    ]
    for part in ("Animal", "Effects", "Human"):
        files += [
            file
            for file in sorted((scratch / part).iterdir())
            if file.suffix.lower() in (".wav", ".mp3") and "inger" not in file.stem
        ]
    for file in shuffled(files, "sounds")[:count]:
        wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
        wave = wave.mean(1)[: int(2.5 * rate)]
        if len(wave) < 0.2 * rate or np.abs(wave).max() < 1e-3:
            continue
        path = out / "sounds" / f"{file.parent.name}-{file.stem}.wav".replace(" ", "-")
        yield write(path, wave, rate, collection="sounds", kind="sound")


def write(
    path: Path, wave: np.ndarray, rate: int, *, collection: str, key: str | None = None,
    text: str | None = None, **labels: str,
) -> Row:  # fmt: skip
    """Writes a file and describes it; clips with the same `key` are held out together."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(wave, -1, 1), rate, subtype="PCM_16")
    clip_id = f"{path.parent.name}-{path.stem}"
    return {
        "id": clip_id,
        "audio_filepath": str(path.absolute()),
        "duration": len(wave) / rate,
        "text": text,
        "labels": {"collection": collection, "group": key or clip_id, **labels},
    }


def normal(text: str) -> str:
    """Returns a text in lower case without punctuation except apostrophes, for scoring words."""
    return " ".join(re.sub(r"[^a-z' ]+", " ", text.lower()).split())


def shuffled(items: list, seed: str) -> list:
    """Returns the items in an order that depends only on the seed."""
    return random.Random(seed).sample(items, len(items))


def _font(name: str) -> SoundFont:
    package, file = FONTS[name]
    return SoundFont(unpack(package) / "sounds" / "sf2" / file)


def _g722(file: Path) -> np.ndarray:
    with av.open(str(file), format="g722") as container:
        frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768


def _trimmed(wave: np.ndarray) -> np.ndarray:
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    return wave[loud[0] : loud[-1] + 1]


def _faster(wave: np.ndarray, speed: float) -> np.ndarray:
    place = np.arange(0, len(wave) - 1, speed)
    return np.interp(place, np.arange(len(wave)), wave).astype(np.float32)
