"""Tests that a run of commit 652e439 can still be used for answers, evaluation, report and export.

`expected.json` in the run's folder has the answers and logits of that commit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from student.evaluation.evaluate import evaluate
from student.evaluation.question_files import questions_of_run
from student.inference.generate import TrainedStudent
from student.release.export import export
from student.report import runs
from student.runs.folder import Run

SAMPLE = Path(__file__).parents[2] / "data" / "run_652e439"


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old") / "run"
    shutil.copytree(SAMPLE, folder)
    for name in ("held_out.jsonl", "sources.json"):
        text = (folder / name).read_text().replace("SAMPLE", str(folder))
        (folder / name).write_text(text)
    return folder


def test_old_run_folder_is_read(old_run: Path) -> None:
    run = Run.open(old_run)
    assert run.recipe.model.cache_audio_tower
    assert run.finished_stages() == ["align", "joint"]
    assert run.identity.teachers == ["toy@15ed956eabeb"]
    assert list(run.report()) == ["before", "align", "joint"]
    (result,) = runs.read([run])
    assert result.arm == "coat"
    assert result.num_held_out == 2


def test_old_run_gives_the_same_answers(old_run: Path) -> None:
    trained = TrainedStudent(old_run, heads=True)
    expected = json.loads((SAMPLE / "expected.json").read_text())
    for (example, clips), expected_row in zip(Run(old_run).held_out(), expected, strict=True):
        waves = [trained.load_audio(clip) for clip in clips]
        inputs = trained.inputs([example.messages], [waves])
        with torch.no_grad():
            best = trained.student.base(**inputs).logits[0, -1].topk(5)
        assert best.indices.tolist() == expected_row["best"]
        torch.testing.assert_close(
            best.values, torch.tensor(expected_row["logits"]), rtol=0, atol=1e-3
        )
        assert trained.reply([example.messages], [waves], max_tokens=5) == [expected_row["answer"]]


def test_old_run_is_evaluated_and_exported(old_run: Path, tmp_path: Path) -> None:
    questions = questions_of_run(old_run)
    assert evaluate(old_run, questions, "held_out")["questions"] == 2
    assert Run(old_run).scores_file("held_out").is_file()
    assert export(old_run, tmp_path / "out").holds
