"""Tests for the demo: its questions, its labels, and the answer that it shows at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.demo import __main__ as demo_program
from examples.demo import corpus as demo
from examples.demo.__main__ import RECIPE, answers_table, correct_answer
from examples.demo.soundfont import Note
from student.recipe_files import load_recipe
from student.runs.folder import Run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The labels of the demo's notes, without their audio."""
    out = tmp_path_factory.mktemp("demo")
    (out / "notes").mkdir()

    def play(program: int, notes_to_play: Any, seconds: float) -> Any:
        return np.zeros(100, np.float32)

    return [row["labels"] for row in demo._notes(out, play, "none", "CC0-1.0")]


def test_each_question_has_at_least_two_answers(notes: list[dict]) -> None:
    speech = [{"kind": "speech", "source": "speech", "words": demo.number_of_words(text)}
              for text in ("one two three four", " ".join(["word"] * 12))]  # fmt: skip
    for task in load_recipe(ROOT / RECIPE).data.tasks:
        key = task.answer[0].removeprefix("labels.")
        answers = {labels[key] for labels in [*notes, *speech] if key in labels}
        assert len(answers) >= 2, task.questions


def test_labels_describe_the_notes(notes: list[dict]) -> None:
    for labels in notes:
        onsets = sorted({onset for onset, _, _ in labels["notes"]})
        first, last = (
            min(midi for onset, _, midi in labels["notes"] if onset == end)
            for end in (onsets[0], onsets[-1])
        )
        direction = {True: "higher", False: "lower"}[last > first] if last != first else "as high"
        assert labels["direction"] == direction
        is_chord = len(onsets) < len(labels["notes"])
        assert labels["texture"] == ("chords" if is_chord else "single notes")
    assert {demo.PLAYED[labels["instrument"]] for labels in notes} == {"struck", "bowed", "blown"}
    assert demo.direction([Note(0, 1, 60), Note(1, 2, 61)]) == "higher"


def test_correct_answer_is_chosen_from_the_best_question(
    tmp_path: Path,
) -> None:
    examples = [
        ("a/0", "Which?", "label", [], "cat"),
        ("b/0", "Which?", "label", [], "dog"),
        ("b/1", "Is it a dog?", "choice", ["yes", "no"], "yes"),
        ("c/2", "Rare?", "label", [], "x"),
    ]
    lines = [
        json.dumps({"id": name, "task": task, "kind": kind, "question": task, "choices": choices,
                    "answer": answer, "messages": [], "response": answer,
                    "clips": [{"clip_id": name[0], "uri": f"/{name[0]}.wav"}]})
        for name, task, kind, choices, answer in examples
    ]  # fmt: skip
    run = Run(tmp_path)
    run.held_out_file.write_text("\n".join(lines) + "\n")
    tasks = {
        "Rare?": {"kind": "label", "n": 1, "score": 1.0, "majority": 1.0, "chance": 0.0},
        "Which?": {"kind": "label", "n": 2, "score": 0.5, "majority": 0.4, "chance": 0.0},
        "Is it a dog?": {"kind": "choice", "n": 1, "score": 1.0, "majority": 0.5, "chance": 0.5},
    }
    run.scores_file("held_out").parent.mkdir()
    run.scores_file("held_out").write_text(json.dumps({"tasks": tasks}))
    is_right_by_id = {"a/0": False, "b/0": True, "b/1": True, "c/2": True}
    run.answers_file("held_out").write_text(
        "".join(
            json.dumps({"id": name, "right": is_right}) + "\n"
            for name, is_right in is_right_by_id.items()
        )
    )
    shown = correct_answer(tmp_path)
    assert (shown.audio, shown.question, shown.answer) == ("/b.wav", "Which?", "dog")
    assert shown.scores == tasks["Which?"], "the chance of the question that is shown"
    table = answers_table(tmp_path)
    assert list(table.columns[-1].cells) == ["+0.00", "+0.10", "+0.50"]


def test_recipe_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands: list[tuple[str, ...]] = []

    def record(*command: str | Path) -> float:
        commands.append(tuple(map(str, command)))
        if command[1] == "train":
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr(demo_program, "run", record)
    monkeypatch.setattr("sys.argv", ["demo", "--out", "mine"])
    with pytest.raises(SystemExit) as stop:
        demo_program.main()
    assert stop.value.code == 130
    assert "the same command resumes" in capsys.readouterr().out
    train = commands[-1]
    assert Path(train[train.index("--config") + 1]).is_file()
    assert train[train.index("--out") + 1] == str(Path("mine", "student"))
    monkeypatch.setattr("sys.argv", ["demo", "--help"])
    with pytest.raises(SystemExit):
        demo_program.main()
    assert len(commands) == 4, "--help runs nothing"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_demo_lets_its_command_end_by_itself(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The build of the demo and its Ray cluster used to be left behind, or killed."""
    command = (
        "import pathlib, signal, sys, time\n"
        "def end(*_): time.sleep(1); pathlib.Path('ended').touch(); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "pathlib.Path('begun').touch(); time.sleep(60)"
    )
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from examples.demo import __main__ as demo\n"
        f"demo.run_demo = lambda out: demo.run(sys.executable, '-c', {command!r})\n"
        "sys.argv = ['demo']; demo.main()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(5):
        process.send_signal(number)
        time.sleep(0.1)
    output, _ = process.communicate(timeout=60)
    assert (tmp_path / "ended").exists()
    assert process.returncode == 128 + number
    assert "interrupted; the same command resumes the demo" in output
