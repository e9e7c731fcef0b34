"""Creates the corpus for the base of the small student: transcripts, captions, labels.

Recordings and a synthesiser's speech, all from Debian packages. Captions are sentences made from
labels. A tenth of the clips (of speech, split by text) is never trained on; questions about these
evaluate the base.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.miniature import audio
from benchmarks.miniature.audio import Row
from benchmarks.miniature.speech import spoken_phrases
from examples.demo.debian import unpack
from student.data.examples import fraction

MAX_SECONDS = 3.0
PHRASES = 2400
TEST_SHARE = 0.1
QUESTIONS = {
    "transcription": "What is said?",
    "instrument": "Which instrument plays?",
    "drum": "Which drum is hit?",
    "language": "Which language is spoken?",
    "kind": "Is it speech, music or a sound?",
}
"""Task (`transcription`, or a label) -> question."""
LICENCES = {
    "asterisk-core-sounds-en-g722": "CC-BY-SA-3.0",
    "tuxpaint-stamps-default": "GPL-2",
    "hydrogen-drumkits": "GPL-2+ and others by drum kit",
    "hydrogen-data": "GPL-2+",
    "timgm6mb-soundfont": "GPL-2",
    "flite": "a BSD-like licence, GPL-2 in parts",
}
"""Debian package that the audio comes from -> its licence, by the package's `copyright` file."""


def make(out: Path, *, phrases: int = PHRASES) -> list[Row]:
    """Writes the audio, its manifest and the questions; returns the rows for training."""
    source = out / "source"
    rows = [
        *audio.spoken_prompts(source, 600),
        *audio.spoken_digits(source, 300),
        *spoken_names(source),
        *spoken_phrases(source, phrases),
        *_captioned(audio.languages(source, 20), "Someone speaks {}.", "language"),
        *_captioned(audio.drums(source, new_kits=False), "A {} is hit.", "drum"),
        *_captioned(audio.notes(source, "TimGM6mb", 320), "A {} plays a note.", "instrument"),
        *_captioned(audio.melodies(source, "TimGM6mb", 96), "A {} plays a melody.", "instrument"),
        *named_sounds(source),
    ]
    rows = [row for row in rows if row["duration"] <= MAX_SECONDS]
    training = [row for row in rows if not _is_test(row)]
    _write_lines(source / "base.jsonl", training)
    known = {
        name: sorted({str(row["labels"][name]) for row in rows if row["labels"].get(name)})
        for name in QUESTIONS
    }
    _write_lines(out / "questions" / "base.jsonl", questions(filter(_is_test, rows), known))
    return training


def _write_lines(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def spoken_names(out: Path) -> Iterator[Row]:
    """Yields English names of things (Tux Paint), with transcripts."""
    stamps = unpack("tuxpaint-stamps-default") / "tuxpaint" / "stamps"
    for file in sorted(stamps.rglob("*_desc.ogg")):
        wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
        text = _first_line(file.with_name(file.name.replace("_desc.ogg", ".txt")))
        if text and len(wave) >= 0.3 * rate:
            path = out / "names" / f"{file.parent.name}-{file.stem}.wav"
            yield audio.write(path, wave.mean(1), rate, collection="names", text=audio.normal(text),
                             kind="speech")  # fmt: skip


def named_sounds(out: Path) -> Iterator[Row]:
    """Yields sounds of animals, machines and so on, with Tux Paint's sentence for each."""
    stamps = unpack("tuxpaint-stamps-default") / "tuxpaint" / "stamps"
    for file in sorted([*stamps.rglob("*.ogg"), *stamps.rglob("*.wav")]):
        place = file.relative_to(stamps).parts
        text = _first_line(file.with_suffix(".txt"))
        if "_desc" in file.stem or place[0] not in audio.SOUND_STAMPS or not text:
            continue
        wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
        wave = wave[: int(2.5 * rate)]
        if len(wave) < 0.2 * rate or np.abs(wave).max() < 1e-3:
            continue
        path = out / "named" / f"{file.parent.name}-{file.stem}.wav".replace(" ", "-")
        yield audio.write(path, wave.mean(1), rate, collection="named", kind="sound",
                         sound=audio.normal(text), caption=text)  # fmt: skip


def questions(
    rows: Iterable[Row], known: Mapping[str, list[str]], *, most: int = 100
) -> list[dict]:
    """Returns questions about other clips: the transcript, or a label.

    Args:
        rows: The clips.
        known: Label -> its values in all clips, those for training included; the choices.
        most: Maximum number of questions of a task.
    """
    by_task: dict[str, list[dict]] = {}
    shuffled = sorted(rows, key=lambda row: fraction("question", row["id"]))
    for row in shuffled:
        answers = {"transcription": row["text"], **row["labels"]}
        for task, question in QUESTIONS.items():
            if answers.get(task) and len(by_task.setdefault(task, [])) < most:
                is_speech = task == "transcription"
                by_task[task].append(
                    {
                        "id": f"{task}/{row['id']}",
                        "task": task,
                        "kind": "transcription" if is_speech else "label",
                        "audio": row["audio_filepath"],
                        "question": question,
                        "choices": [] if is_speech else known[task],
                        "answer": answers[task],
                        "clip_id": row["id"],
                    }
                )
    return [question for each in by_task.values() for question in each]


def _captioned(rows: Iterable[Row], sentence: str, label: str) -> Iterator[Row]:
    """Returns rows with a caption that names one of their labels."""
    for row in rows:
        caption = sentence.format(row["labels"][label])
        yield {**row, "labels": {**row["labels"], "caption": caption}}


def _first_line(path: Path) -> str:
    """Returns the English description of a stamp; empty if there is none."""
    if not path.is_file():
        return ""
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()


def _is_test(row: Row) -> bool:
    return fraction("test", row["labels"]["group"]) < TEST_SHARE
