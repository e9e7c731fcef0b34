"""Tests for the loaders of public benchmarks, with one or two rows in the published format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manifests.errors import UserError
from student.evaluation.benchmarks import BENCHMARKS, load_benchmark

CHOICES = {"choice_a": "rain", "choice_b": "wind", "choice_c": "snow", "choice_d": "sun"}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def write_benchmark(name: str, root: Path) -> None:
    """Writes a copy of a benchmark with few rows and without audio files."""
    if name == "mmau":
        row = {
            "id": "x1",
            "audio_id": "./test-mini-audios/x1.wav",
            "question": "What is it?",
            "choices": ["rain", "wind"],
            "answer": "wind",
            "task": "sound",
            "split": "test-mini",
        }
        write(root / "mmau-test-mini.json", [row])
    elif name == "mmar":
        row = {
            "id": "m1",
            "audio_path": "./audio/m1.wav",
            "question": "Who speaks?",
            "choices": ["A man", "A woman"],
            "answer": "A woman",
            "modality": "speech",
        }
        write(root / "MMAR-meta.json", [row])
    elif name == "mmsu":
        row = {
            "id": "s1",
            "task_name": "tone",
            "audio_path": "audio/s1.wav",
            "question": "Tone?",
            **CHOICES,
            "answer_gt": "B",
        }
        write(root / "question" / "mmsu.jsonl", json.dumps(row) + "\n")
    elif name == "air_bench":
        row = {
            "uniq_id": 7,
            "path": "a.wav",
            "task_name": "Audio_Grounding",
            "question": "When?",
            "dataset_name": "AudioGrounding",
            "choice_a": "A. rain",
            "choice_b": "B. wind",
            "choice_c": None,
            "answer_gt": "B. wind",
        }
        write(root / "Foundation_meta.json", [row])
    elif name == "meld":
        write(root / "test_sent_emo.csv",
            "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season\n"
            '1,"Why, yes.",Ross,joy,positive,3,1,4\n')  # fmt: skip
        write(root / "output_repeated_splits_test" / "dia3_utt1.mp4", "")
    elif name == "iemocap":
        write(root / "Session5" / "dialog" / "EmoEvaluation" / "Ses05F_impro01.txt",
            "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
            "[6.2901 - 8.2357]\tSes05F_impro01_F000\texc\t[2.5, 2.5, 2.5]\n"
            "C-E2:\tNeutral;\t()\n"
            "[9.1 - 9.9]\tSes05F_impro01_F001\txxx\t[2.5, 2.5, 2.5]\n")  # fmt: skip
    elif name == "gtzan":
        write(root / "genres_original" / "jazz" / "jazz.00001.wav", "")
        write(root / "genres_original" / "jazz" / "jazz.00054.wav", "")
    elif name == "nsynth":
        note = {"instrument_family_str": "synth_lead", "pitch": 60, "velocity": 100}
        write(root / "examples.json", {"synth_lead_000-060-100": note})
    elif name == "vocalsound":
        rows = {"data": [{"wav": "/data/x/audio_16k/f0003_0_throatclearing.wav", "labels": "/m/1"}]}
        write(root / "datafiles" / "te.json", rows)
    else:
        write(root / "61" / "70968" / "61-70968.trans.txt", "61-70968-0000 HE BEGAN A\n")


@pytest.mark.parametrize(
    ("name", "answer", "audio", "task"),
    [
        ("mmau", "wind", "test-mini-audios/x1.wav", "sound"),
        ("mmar", "A woman", "audio/m1.wav", "speech"),
        ("mmsu", "wind", "audio/s1.wav", "tone"),
        ("air_bench", "wind", "Audio_Grounding_AudioGrounding/a.flac", "Audio_Grounding"),
        ("meld", "joy", "output_repeated_splits_test/dia3_utt1.mp4", "emotion"),
        ("iemocap", "happiness", "Session5/sentences/wav/Ses05F_impro01/Ses05F_impro01_F000.wav",
         "emotion"),
        ("gtzan", "jazz", "genres_original/jazz/jazz.00001.wav", "genre"),
        ("nsynth", "synth lead", "audio/synth_lead_000-060-100.wav", "instrument"),
        ("vocalsound", "throat clearing", "audio_16k/f0003_0_throatclearing.wav", "vocal sound"),
        ("librispeech", "HE BEGAN A", "61/70968/61-70968-0000.flac", None),
    ],
)  # fmt: skip
def test_benchmark_is_loaded_as_published(
    name: str, answer: str, audio: str, task: str | None, tmp_path: Path
) -> None:
    write_benchmark(name, tmp_path)
    first, *others = load_benchmark(name, tmp_path)
    assert first.answer == answer
    assert Path(first.audio) == tmp_path / audio
    assert first.task == (task or tmp_path.name)
    assert len(others) == (1 if name == "nsynth" else 0)


def test_all_ten_benchmarks_are_tested() -> None:
    assert len(BENCHMARKS) == 10


def test_documentation_lists_every_benchmark_with_its_files() -> None:
    page = (Path(__file__).parents[3] / "docs" / "evaluate.md").read_text("utf-8")
    rows = [line.strip("| ").replace("`", "").split(" | ") for line in page.splitlines()]
    listed = {row[0]: row[2] for row in rows if row[0] in BENCHMARKS and len(row) == 3}
    assert listed == {name: benchmark.files for name, benchmark in BENCHMARKS.items()}


def test_wrong_folder_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a copy of mmau: there is no .*mmau-test-mini.json"):
        load_benchmark("mmau", tmp_path)
    with pytest.raises(UserError, match="not a copy of gtzan: it needs genres_original"):
        load_benchmark("gtzan", tmp_path)
    with pytest.raises(UserError, match="there is no benchmark 'mmu'; known are mmau, mmar"):
        load_benchmark("mmu", tmp_path)
    write(tmp_path / "MMAR-meta.json", [{"id": "1"}])
    with pytest.raises(UserError, match="not mmar as published"):
        load_benchmark("mmar", tmp_path)


def test_invalid_rows_are_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"id": "x", "audio_id": "a.wav", "question": "?", "choices": ["rain", "Wind"],
           "answer": "wind", "task": "sound"}  # fmt: skip
    bad = {**row, "id": "bad", "answer": "bird"}
    incomplete = {key: value for key, value in row.items() if key != "choices"} | {
        "id": "incomplete"
    }
    numeric = {**row, "id": 3, "choices": [1, 2], "answer": 2}
    ambiguous = {**row, "id": "ambiguous", "choices": ["Rain", "rain"], "answer": "rain"}
    write(
        tmp_path / "mmau-test-mini.json", [row, bad, incomplete, numeric, row, ambiguous, "no row"]
    )
    questions = load_benchmark("mmau", tmp_path)
    assert [(each.id, each.answer) for each in questions] == [("x", "Wind"), ("3", "2")]
    (record,) = caplog.records
    message = record.getMessage()
    assert "mmau: 5 of 7 rows are skipped" in message
    assert "row 1: question bad: the answer 'bird' is not one of its choices" in message
    assert "row 2: it has no 'choices'" in message


def test_invalid_json_line_is_skipped(tmp_path: Path) -> None:
    write_benchmark("mmsu", tmp_path)
    path = tmp_path / "question" / "mmsu.jsonl"
    path.write_text(path.read_text() + '{"id": "s2", "task')
    assert [each.id for each in load_benchmark("mmsu", tmp_path)] == ["s1"]
