"""Creates the miniature's corpora and questions, for training and for testing.

Three corpora share one teacher cache: `train` (of which the trainer holds out its validation
share), `test` (other clips of the same sources) and `sources` (a soundfont and drum kits that
are not used for training). Questions with answers are written as JSON lines for
`coat-student eval`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.miniature import audio, hearing
from benchmarks.miniature.audio import Row
from benchmarks.miniature.task import Task
from student.config import TaskConfig
from student.data.examples import fraction

TEST_SHARE = 0.22
VALIDATION_SHARE = 0.12


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Number of clips in each group."""

    prompts: int = 220
    digits: int = 200
    languages_each: int = 45
    notes: int = 440
    melodies: int = 256
    sounds: int = 110
    new_notes: int = 120
    new_melodies: int = 64
    hearing: int = 200
    """Clips of each kind of sound in the study `hearing`."""
    new_hearing: int = 48


FULL = Sizes()
QUICK = Sizes(prompts=0, digits=80, languages_each=10, notes=160, melodies=72, sounds=0,
              new_notes=40, new_melodies=24, hearing=36, new_hearing=12)  # fmt: skip


TASKS = {
    "transcription": Task(question="What is said?", label="text", kind="transcription"),
    "language": Task(question="Which language is spoken?", label="language",
                     choices=tuple(audio.LANGUAGES.values())),
    "drum": Task(question="Which drum is hit?", label="drum", choices=tuple(audio.DRUMS)),
    "instrument": Task(question="Which instrument plays?", label="instrument",
                       choices=tuple(audio.INSTRUMENTS)),
    "note": Task(question="Which note is played?", label="note", choices=audio.PITCH_CLASSES),
    "melody": Task(question="How does the melody move?", label="melody",
                   choices=tuple(audio.MELODIES)),
    "kind": Task(question="Is it speech, music or a sound?", label="kind",
                 choices=("speech", "music", "sound")),
}  # fmt: skip
MAX_SECONDS = 1.9
"""Longer clips are skipped, in questions and by the recipe (`data.max_duration`), which halves the
time."""
KIND_SHARE = 0.25
"""Share of the clips that also have a question about their kind."""


STUDIES = {"labels": TASKS, "hearing": hearing.TASKS}
"""Study -> its tasks. `labels` is the first edition; `hearing` needs the experts' outputs."""


def task_configs(study: str) -> list[TaskConfig]:
    """Returns the tasks as templates of the trainer's recipe."""
    return [
        TaskConfig(
            questions=[task.question],
            answer=["text" if task.label == "text" else f"labels.{task.label}"],
            weight=KIND_SHARE if name == "kind" else 1.0,
        )
        for name, task in STUDIES[study].items()
    ]


def make(out: Path, sizes: Sizes, study: str) -> dict[str, list[Row]]:
    """Writes the audio, a manifest per corpus and the questions per split.

    Returns:
        Corpus -> rows.
    """
    source = out / "source"
    rows = _hearing_rows if study == "hearing" else _label_rows
    known, new = rows(source, sizes)
    known = [row for row in known if row["duration"] <= MAX_SECONDS]
    corpora = {
        "train": [row for row in known if not _is_test(row)],
        "test": [row for row in known if _is_test(row)],
        "sources": [row for row in new if study == "labels" or row["duration"] <= MAX_SECONDS],
    }
    for name, split in corpora.items():
        _write_lines(source / f"{name}.jsonl", split)
    validation = validation_rows(corpora["train"])
    for name, split in {"validation": validation, **corpora}.items():
        _write_lines(out / "questions" / f"{name}.jsonl", questions(split, study))
    return corpora


def _hearing_rows(source: Path, sizes: Sizes) -> tuple[list[Row], list[Row]]:
    """Clips of known and of new sources."""
    known = hearing.known_rows(source, sizes.hearing)
    return [*known], [*hearing.new_rows(source, sizes.new_hearing)]


def _label_rows(source: Path, sizes: Sizes) -> tuple[list[Row], list[Row]]:
    """Clips of known and of new sources."""
    known = [
        *audio.spoken_prompts(source, sizes.prompts),
        *audio.spoken_digits(source, sizes.digits),
        *audio.languages(source, sizes.languages_each),
        *_thinned(audio.drums(source, new_kits=False), sizes),
        *audio.notes(source, "TimGM6mb", sizes.notes),
        *audio.melodies(source, "TimGM6mb", sizes.melodies),
        *audio.other_sounds(source, sizes.sounds),
    ]
    new = [
        *_thinned(audio.drums(source, new_kits=True), sizes),
        *audio.notes(source, "FluidR3", sizes.new_notes),
        *audio.melodies(source, "FluidR3", sizes.new_melodies),
    ]
    return known, new


def questions(rows: Iterable[Row], study: str) -> list[dict]:
    """Returns questions for `coat-student eval`: every task for which a clip has an answer."""
    items = []
    for name, task in STUDIES[study].items():
        for row in rows:
            answer = row["text"] if task.label == "text" else row["labels"].get(task.label)
            skipped = name == "kind" and fraction("kind", row["id"]) >= KIND_SHARE
            if answer is None or skipped:
                continue
            items.append(
                {
                    "id": f"{name}/{row['id']}",
                    "task": name,
                    "kind": task.kind,
                    "audio": row["audio_filepath"],
                    "question": task.question,
                    "choices": list(task.choices),
                    "answer": answer,
                    "clip_id": row["id"],
                }
            )
    return items


def validation_rows(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows that the trainer holds out, by a hash of the first clip of each group."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row["labels"]["group"], row["id"])
    drawn = {
        group for group, id_ in first.items() if fraction("validation", id_) < VALIDATION_SHARE
    }
    return [row for row in rows if row["labels"]["group"] in drawn]


def _is_test(row: Row) -> bool:
    return fraction("test", row["labels"]["group"]) < TEST_SHARE


def _thinned(rows: Iterable[Row], sizes: Sizes) -> list[Row]:
    """Returns all drums, or every third if the other groups are small, too."""
    rows = list(rows)
    return rows if sizes.prompts else rows[::3]


def _write_lines(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
