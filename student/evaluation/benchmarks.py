"""Public benchmarks from local copies, in the layout in which each is published.

Each loader reads one folder and yields questions; nothing is downloaded. Where a data set has
labels and no questions (emotions, instruments, words), the question is ours, and the table of
results then is not comparable to papers that worded it otherwise.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from manifests.errors import UserError
from student.evaluation.questions import LETTERS, Question

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
"""Of MELD."""
IEMOCAP_EMOTIONS = {
    "ang": "anger",
    "hap": "happiness",
    "exc": "happiness",
    "sad": "sadness",
    "neu": "neutral",
}
"""The usual four classes; excitement counts as happiness."""
GENRES = (
    "blues",
    "classical",
    "country",
    "disco",
    "hiphop",
    "jazz",
    "metal",
    "pop",
    "reggae",
    "rock",
)
FAMILIES = (
    "bass",
    "brass",
    "flute",
    "guitar",
    "keyboard",
    "mallet",
    "organ",
    "reed",
    "string",
    "synth_lead",
    "vocal",
)
VOCAL_SOUNDS = {
    "laughter": "laughter",
    "sigh": "sigh",
    "cough": "cough",
    "throatclearing": "throat clearing",
    "sneeze": "sneeze",
    "sniff": "sniff",
}
IEMOCAP_LINE = re.compile(r"^\[[\d.]+ - [\d.]+\]\t(\S+)\t(\w+)\t")


def load_benchmark(name: str, folder: Path) -> list[Question]:
    """Questions of a local copy of a public benchmark.

    Raises:
        UserError: the name is unknown, or the folder does not hold what is published under it.
    """
    if name not in BENCHMARKS:
        raise UserError(f"there is no benchmark {name!r}; known are {', '.join(BENCHMARKS)}")
    try:
        questions = list(BENCHMARKS[name](folder))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a copy of {name}: there is no {error.filename}") from None
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder} is not {name} as published: {error!r}") from None
    if not questions:
        raise UserError(f"{folder} is not a copy of {name}: nothing was found in it")
    return questions


def mmau(folder: Path) -> Iterator[Question]:
    """MMAU (Sakshi et al. 2024): `mmau-test-mini.json`, and the audio that it names."""
    path = folder / "mmau-test-mini.json"
    for row in json.loads(path.read_text(encoding="utf-8")):
        yield _choice(row["id"], row["task"], folder / row["audio_id"], row, row["choices"])


def mmar(folder: Path) -> Iterator[Question]:
    """MMAR (Ma et al. 2025): `MMAR-meta.json`, and the audio that it names."""
    for row in json.loads((folder / "MMAR-meta.json").read_text(encoding="utf-8")):
        yield _choice(row["id"], row["modality"], folder / row["audio_path"], row, row["choices"])


def mmsu(folder: Path) -> Iterator[Question]:
    """MMSU (Wang et al. 2025): `question/mmsu.jsonl`, and the audio that it names."""
    for line in (folder / "question" / "mmsu.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        audio = folder / row["audio_path"]
        yield _choice(row["id"], row["task_name"], audio, row, _lettered(row))


def air_bench(folder: Path) -> Iterator[Question]:
    """AIR-Bench's foundation part (Yang et al. 2024): `Foundation_meta.json` and a folder of audio
    per task and data set. Its chat part is judged by a model and is not read here."""
    for row in json.loads((folder / "Foundation_meta.json").read_text(encoding="utf-8")):
        audio = folder / f"{row['task_name']}_{row['dataset_name']}" / row["path"]
        if row["task_name"] == "Audio_Grounding":
            audio = audio.with_suffix(".flac")
        yield _choice(row["uniq_id"], row["task_name"], audio, row, _lettered(row))


def meld(folder: Path) -> Iterator[Question]:
    """MELD's test set (Poria et al. 2019): `test_sent_emo.csv` and a recording per utterance, the
    published .mp4 or its sound as .wav, in `output_repeated_splits_test`."""
    with (folder / "test_sent_emo.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            audio = folder / "output_repeated_splits_test" / f"{name}.wav"
            if not audio.is_file():
                audio = audio.with_suffix(".mp4")
            yield _label(
                name,
                "emotion",
                audio,
                "Which emotion does the speaker express?",
                row["Emotion"],
                EMOTIONS,
            )


def iemocap(folder: Path) -> Iterator[Question]:
    """IEMOCAP's fifth session (Busso et al. 2008), four classes: `Session5/dialog/EmoEvaluation`
    and `Session5/sentences/wav`."""
    session = folder / "Session5"
    for path in sorted((session / "dialog" / "EmoEvaluation").glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            found = IEMOCAP_LINE.match(line)
            if found is None or found[2] not in IEMOCAP_EMOTIONS:
                continue
            audio = session / "sentences" / "wav" / path.stem / f"{found[1]}.wav"
            yield _label(
                found[1],
                "emotion",
                audio,
                "Which emotion does the speaker express?",
                IEMOCAP_EMOTIONS[found[2]],
                tuple(dict.fromkeys(IEMOCAP_EMOTIONS.values())),
            )


def gtzan(folder: Path) -> Iterator[Question]:
    """GTZAN (Tzanetakis & Cook 2002): a folder per genre, of .wav or .au, all of it.

    jazz.00054 is left out: the file is damaged in the published archive.
    """
    genres = folder / "genres_original"
    genres = genres if genres.is_dir() else folder / "genres"
    for genre in GENRES:
        for audio in sorted([*(genres / genre).glob("*.wav"), *(genres / genre).glob("*.au")]):
            if audio.stem != "jazz.00054":
                yield _label(
                    audio.stem, "genre", audio, "Which genre is this music?", genre, GENRES
                )


def nsynth(folder: Path) -> Iterator[Question]:
    """NSynth's test set (Engel et al. 2017): `examples.json` and `audio`; instrument family and
    pitch, two questions a note."""
    rows = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    pitches = tuple(str(pitch) for pitch in range(128))
    for name, row in rows.items():
        audio = folder / "audio" / f"{name}.wav"
        families = tuple(family.replace("_", " ") for family in FAMILIES)
        family = row["instrument_family_str"].replace("_", " ")
        yield _label(
            f"{name}/instrument",
            "instrument",
            audio,
            "Which instrument family plays?",
            family,
            families,
        )
        yield _label(
            f"{name}/pitch",
            "pitch",
            audio,
            "Which MIDI note number is played?",
            str(row["pitch"]),
            pitches,
        )


def vocalsound(folder: Path) -> Iterator[Question]:
    """VocalSound's test set (Gong et al. 2022): `datafiles/te.json`, whose absolute paths end in
    file names of `audio_16k`; the class is part of the name."""
    rows = json.loads((folder / "datafiles" / "te.json").read_text(encoding="utf-8"))["data"]
    labels = tuple(VOCAL_SOUNDS.values())
    for row in rows:
        audio = folder / "audio_16k" / Path(row["wav"]).name
        label = VOCAL_SOUNDS[audio.stem.rpartition("_")[2]]
        yield _label(
            audio.stem, "vocal sound", audio, "Which sound does the person make?", label, labels
        )


def librispeech(folder: Path) -> Iterator[Question]:
    """One set of LibriSpeech (Panayotov et al. 2015), such as `test-clean`: SPEAKER/CHAPTER."""
    for path in sorted(folder.glob("*/*/*.trans.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            yield Question(
                id=name,
                kind="transcription",
                audio=str(path.parent / f"{name}.flac"),
                question="What is said?",
                answer=text,
                task=folder.name,
            )


BENCHMARKS: dict[str, Callable[[Path], Iterator[Question]]] = {
    "mmau": mmau,
    "mmar": mmar,
    "mmsu": mmsu,
    "air_bench": air_bench,
    "meld": meld,
    "iemocap": iemocap,
    "gtzan": gtzan,
    "nsynth": nsynth,
    "vocalsound": vocalsound,
    "librispeech": librispeech,
}


def _choice(id_: str, task: str, audio: Path, row: dict[str, Any], choices: list[str]) -> Question:
    """A multiple-choice question; choices may carry their letters, the answer may be a letter."""
    plain = [
        re.sub(rf"^\(?{LETTERS[at]}[.)]\s+", "", str(choice).strip())
        for at, choice in enumerate(choices)
    ]
    answer = str(row["answer_gt"] if "answer_gt" in row else row["answer"]).strip()
    if answer not in plain:
        by_letter = dict(zip(LETTERS, plain, strict=False))
        stripped = re.sub(r"^\(?[A-Z][.)]\s+", "", answer)
        answer = stripped if stripped in plain else by_letter[answer.strip("().")]
    return Question(
        id=str(id_),
        kind="choice",
        audio=str(audio),
        question=row["question"],
        answer=answer,
        choices=tuple(plain),
        task=task,
    )


def _lettered(row: dict[str, Any]) -> list[str]:
    options = [row.get(f"choice_{letter}") for letter in "abcd"]
    return [str(option) for option in options if option not in (None, "")]


def _label(
    id_: str, task: str, audio: Path, question: str, answer: str, labels: tuple[str, ...]
) -> Question:
    if answer not in labels:
        raise ValueError(f"{answer!r} is not one of {', '.join(labels)}")
    return Question(
        id=id_,
        kind="label",
        audio=str(audio),
        question=question,
        answer=answer,
        choices=labels,
        task=task,
    )
