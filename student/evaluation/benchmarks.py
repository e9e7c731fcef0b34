"""Reads public benchmarks from local copies, in their published layout.

Each loader reads one folder and returns questions; nothing is downloaded. If a data set has labels
but no questions (emotions, instruments, words), the question is our wording, so results are not
comparable to papers with another wording. Rows that cannot be read are skipped, counted and
reported.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.clips import has_value
from manifests.errors import UserError, explain
from manifests.json_lines import read_lines
from student.evaluation.questions import LETTERS, Question, check_questions, find_answer

logger = logging.getLogger(__name__)

Row = tuple[str, Any]
"""(label of the row for messages, its content)."""

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
"""Emotion labels of MELD."""
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


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The reader of one benchmark."""

    files: str
    """The files that its folder must contain."""
    rows: Callable[[Path], Iterable[Row]]
    """Reads the files of a folder."""
    question: Callable[[Path, Any], Question | list[Question]]
    """Makes a row's question, or questions."""


def load_benchmark(name: str, folder: Path) -> list[Question]:
    """Reads the questions of a local copy of a public benchmark.

    Raises:
        UserError: the name is unknown, or the folder does not have the published files.
    """
    if name not in BENCHMARKS:
        raise UserError(f"there is no benchmark {name!r}; known are {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    questions: dict[str, Question] = {}
    faults: list[str] = []
    try:
        for label, row in benchmark.rows(folder):
            try:
                made = benchmark.question(folder, _parsed(row))
                made = made if isinstance(made, list) else [made]
                repeated = [question.id for question in made if question.id in questions]
                if repeated:
                    raise ValueError(f"the id {repeated[0]!r} occurs twice")
                questions |= {question.id: question for question in made}
            except KeyError as error:
                faults.append(f"{label}: it has no {error}")
            except (ValueError, TypeError, AttributeError, UserError) as error:
                faults.append(f"{label}: {error}")
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a copy of {name}: there is no {error.filename}; it needs "
            f"{benchmark.files}"
        ) from None
    except (KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} is not {name} as published: {explain(error)}") from None
    if not questions:
        why = f"not one of {len(faults)} rows can be read; {faults[0]}" if faults else ""
        raise UserError(
            f"{folder} is not {name} as published: {why}"
            if why
            else f"{folder} is not a copy of {name}: it needs {benchmark.files}"
        )
    if faults:
        logger.warning(
            "%s: %d of %d rows are skipped, because they cannot be read: %s%s", name, len(faults),
            len(faults) + len(questions), "; ".join(faults[:3]), " ..." * (len(faults) > 3),
        )  # fmt: skip
    return check_questions(questions.values())


def _parsed(row: Any) -> Any:
    """Parses a row if it is a line of JSON."""
    return json.loads(row) if isinstance(row, str) else row


def _json_rows(file: str) -> Callable[[Path], Iterator[Row]]:
    """Reader of the rows of a JSON file with a list."""

    def read(folder: Path) -> Iterator[Row]:
        rows = json.loads((folder / file).read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError(f"{file} is no list")
        for number, row in enumerate(rows):
            yield f"row {number}", row

    return read


def _mmau(folder: Path, row: dict[str, Any]) -> Question:
    """MMAU (Sakshi et al. 2024): `mmau-test-mini.json`, and the audio that it names."""
    return _choice(row["id"], row["task"], folder / row["audio_id"], row, row["choices"])


def _mmar(folder: Path, row: dict[str, Any]) -> Question:
    """MMAR (Ma et al. 2025): `MMAR-meta.json`, and the audio that it names."""
    return _choice(row["id"], row["modality"], folder / row["audio_path"], row, row["choices"])


def _mmsu_rows(folder: Path) -> Iterator[Row]:
    """MMSU (Wang et al. 2025): `question/mmsu.jsonl`, and the audio that it names."""
    lines = read_lines(folder / "question" / "mmsu.jsonl")
    return ((f"line {number}", line) for number, line in lines)


def _mmsu(folder: Path, row: dict[str, Any]) -> Question:
    return _choice(row["id"], row["task_name"], folder / row["audio_path"], row, _lettered(row))


def _air_bench(folder: Path, row: dict[str, Any]) -> Question:
    """AIR-Bench's foundation part (Yang et al. 2024): `Foundation_meta.json` and a folder of audio
    per task and data set. Its chat part needs a model as judge and is not supported."""
    audio = folder / f"{row['task_name']}_{row['dataset_name']}" / row["path"]
    if row["task_name"] == "Audio_Grounding":
        audio = audio.with_suffix(".flac")
    return _choice(row["uniq_id"], row["task_name"], audio, row, _lettered(row))


def _meld_rows(folder: Path) -> Iterator[Row]:
    """MELD's test set (Poria et al. 2019): `test_sent_emo.csv` and a recording per utterance, the
    published .mp4 or its sound as .wav, in `output_repeated_splits_test`."""
    with (folder / "test_sent_emo.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield f"utterance {row.get('Sr No.')}", row


def _meld(folder: Path, row: dict[str, Any]) -> Question:
    name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
    audio = folder / "output_repeated_splits_test" / f"{name}.wav"
    if not audio.is_file():
        audio = audio.with_suffix(".mp4")
    asked = "Which emotion does the speaker express?"
    return _label(name, "emotion", audio, asked, row["Emotion"], EMOTIONS)


def _iemocap_rows(folder: Path) -> Iterator[Row]:
    """IEMOCAP's fifth session (Busso et al. 2008), four classes: `Session5/dialog/EmoEvaluation`
    and `Session5/sentences/wav`."""
    for path in sorted((folder / "Session5" / "dialog" / "EmoEvaluation").glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            match = IEMOCAP_LINE.match(line)
            if match is not None and match[2] in IEMOCAP_EMOTIONS:
                yield f"{path.name}, {match[1]}", (path.stem, match[1], match[2])


def _iemocap(folder: Path, row: tuple[str, str, str]) -> Question:
    dialogue, name, emotion = row
    return _label(
        name,
        "emotion",
        folder / "Session5" / "sentences" / "wav" / dialogue / f"{name}.wav",
        "Which emotion does the speaker express?",
        IEMOCAP_EMOTIONS[emotion],
        tuple(dict.fromkeys(IEMOCAP_EMOTIONS.values())),
    )


def _gtzan_rows(folder: Path) -> Iterator[Row]:
    """GTZAN (Tzanetakis & Cook 2002): a folder per genre, of .wav or .au, all of it.

    jazz.00054 is left out: the file is damaged in the published archive.
    """
    genres = folder / "genres_original"
    genres = genres if genres.is_dir() else folder / "genres"
    for genre in GENRES:
        for audio in sorted([*(genres / genre).glob("*.wav"), *(genres / genre).glob("*.au")]):
            if audio.stem != "jazz.00054":
                yield audio.stem, (genre, audio)


def _gtzan(folder: Path, row: tuple[str, Path]) -> Question:
    del folder
    genre, audio = row
    return _label(audio.stem, "genre", audio, "Which genre is this music?", genre, GENRES)


def _nsynth_rows(folder: Path) -> Iterator[Row]:
    """NSynth's test set (Engel et al. 2017): `examples.json` and `audio`; instrument family and
    pitch, two questions a note."""
    notes = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    return ((name, (name, note)) for name, note in notes.items())


def _nsynth(folder: Path, row: tuple[str, dict[str, Any]]) -> list[Question]:
    name, note = row
    audio = folder / "audio" / f"{name}.wav"
    families = tuple(family.replace("_", " ") for family in FAMILIES)
    family = note["instrument_family_str"].replace("_", " ")
    pitches = tuple(str(pitch) for pitch in range(128))
    return [
        _label(
            f"{name}/instrument",
            "instrument",
            audio,
            "Which instrument family plays?",
            family,
            families,
        ),
        _label(
            f"{name}/pitch",
            "pitch",
            audio,
            "Which MIDI note number is played?",
            str(note["pitch"]),
            pitches,
        ),
    ]


def _vocalsound_rows(folder: Path) -> Iterator[Row]:
    """VocalSound's test set (Gong et al. 2022): `datafiles/te.json`, whose absolute paths end in
    file names of `audio_16k`; the class is part of the name."""
    rows = json.loads((folder / "datafiles" / "te.json").read_text(encoding="utf-8"))["data"]
    return ((f"row {number}", row) for number, row in enumerate(rows))


def _vocalsound(folder: Path, row: dict[str, Any]) -> Question:
    audio = folder / "audio_16k" / Path(row["wav"]).name
    label = VOCAL_SOUNDS[audio.stem.rpartition("_")[2]]
    asked = "Which sound does the person make?"
    return _label(audio.stem, "vocal sound", audio, asked, label, tuple(VOCAL_SOUNDS.values()))


def _librispeech_rows(folder: Path) -> Iterator[Row]:
    """One set of LibriSpeech (Panayotov et al. 2015), such as `test-clean`: SPEAKER/CHAPTER."""
    for path in sorted(folder.glob("*/*/*.trans.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                yield f"{path.name}, line {number}", (path.parent, line)


def _librispeech(folder: Path, row: tuple[Path, str]) -> Question:
    chapter, line = row
    name, _, text = line.partition(" ")
    return Question(
        id=name,
        kind="transcription",
        audio=str(chapter / f"{name}.flac"),
        question="What is said?",
        answer=text,
        task=folder.name,
    )


BENCHMARKS = {
    "mmau": Benchmark(
        files="mmau-test-mini.json and the audio that it names",
        rows=_json_rows("mmau-test-mini.json"),
        question=_mmau,
    ),
    "mmar": Benchmark(
        files="MMAR-meta.json and the audio that it names",
        rows=_json_rows("MMAR-meta.json"),
        question=_mmar,
    ),
    "mmsu": Benchmark(
        files="question/mmsu.jsonl and the audio that it names", rows=_mmsu_rows, question=_mmsu
    ),
    "air_bench": Benchmark(
        files="Foundation_meta.json and a folder of audio per task and data set",
        rows=_json_rows("Foundation_meta.json"),
        question=_air_bench,
    ),
    "meld": Benchmark(
        files="test_sent_emo.csv and output_repeated_splits_test/ with .mp4 or .wav",
        rows=_meld_rows,
        question=_meld,
    ),
    "iemocap": Benchmark(
        files="Session5/dialog/EmoEvaluation/*.txt and Session5/sentences/wav/",
        rows=_iemocap_rows,
        question=_iemocap,
    ),
    "gtzan": Benchmark(
        files="genres_original/ or genres/ with a folder of .wav or .au per genre",
        rows=_gtzan_rows,
        question=_gtzan,
    ),
    "nsynth": Benchmark(files="examples.json and audio/*.wav", rows=_nsynth_rows, question=_nsynth),
    "vocalsound": Benchmark(
        files="datafiles/te.json and audio_16k/*.wav", rows=_vocalsound_rows, question=_vocalsound
    ),
    "librispeech": Benchmark(
        files="SPEAKER/CHAPTER/*.trans.txt and *.flac of one set, e.g. LibriSpeech/test-clean",
        rows=_librispeech_rows,
        question=_librispeech,
    ),
}


def _choice(id_: object, task: str, audio: Path, row: dict[str, Any], choices: list) -> Question:
    """Builds a multiple-choice question; choices may start with letters, the answer may be a
    letter."""
    kept = [
        re.sub(rf"^\(?{letter}[.)]\s+", "", str(choice).strip())
        for letter, choice in zip(LETTERS, choices, strict=False)
    ]
    answer = str(row["answer_gt"] if "answer_gt" in row else row["answer"]).strip()
    return Question(
        id=str(id_),
        kind="choice",
        audio=str(audio),
        question=str(row["question"]),
        answer=find_answer(answer, kept) or answer,
        choices=tuple(kept),
        task=str(task),
    )


def _lettered(row: dict[str, Any]) -> list[str]:
    options = [row.get(f"choice_{letter}") for letter in "abcd"]
    return [str(option) for option in options if has_value(option)]


def _label(
    id_: str, task: str, audio: Path, question: str, answer: str, labels: tuple[str, ...]
) -> Question:
    return Question(
        id=id_,
        kind="label",
        audio=str(audio),
        question=question,
        answer=answer,
        choices=labels,
        task=task,
    )
