"""Tests for the data of the report of runs. `test_report_page.py` tests its appearance."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from manifests.errors import UserError
from student.batch import Grid
from student.distill.kinds import stream_metric, to_target_units
from student.report import page, predictions, runs
from student.runs.folder import Run, find_runs
from student.train import train


@pytest.fixture(scope="module")
def trained(toy_data, tmp_path_factory) -> Path:
    """A folder of two arms that were trained for two steps in each stage."""
    folder = tmp_path_factory.mktemp("runs")
    for arm in ("coat", "sft"):
        train(toy_data.options(folder / f"{arm}-0", arm=arm))
    return folder


def report_data(paths: list[Path], out: Path, caches: Sequence[str] = ()) -> dict[str, Any]:
    """Writes a report, and returns the JSON data in its page."""
    written = page.write(
        [str(path) for path in paths], str(out), caches=caches, clips=3, console=Console(quiet=True)
    )
    result = re.search(
        r'id="facts">(.*?)</script>', Path(written.uri).read_text("utf-8"), re.DOTALL
    )
    assert result
    return json.loads(result[1])


def test_report_of_a_folder_lists_all_its_runs(trained: Path, tmp_path: Path) -> None:
    data = report_data([trained], tmp_path)
    assert [run["name"] for run in data["runs"]] == ["coat-0", "sft-0"]
    assert [run["group"] for run in data["runs"]] == ["coat", "sft"]
    assert data["clips"] == []
    with pytest.raises(UserError, match="neither a run nor a folder of runs"):
        find_runs([str(tmp_path)])


def test_report_command_prints_nothing_to_stderr(
    trained: Path, toy_data: Any, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "student.cli", "report", str(trained), "--clips", "1",
         "--cache", str(toy_data.cache), "--out", str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_curves_continue_across_stages(trained: Path) -> None:
    coat, sft = runs.read(find_runs([str(trained)]))
    assert coat.boundaries == [("align", 0), ("joint", 2)]
    bands = coat.curves["toy.bands"]
    assert bands.steps == [1, 2, 3, 4]
    assert bands.checked_steps == [0, 2, 4]
    logged = [json.loads(line) for line in (trained / "coat-0/metrics.jsonl").open()]
    assert bands.values == [line["loss/toy.bands"] for line in logged if "loss" in line]
    report = json.loads((trained / "coat-0/report.json").read_text())
    assert bands.checked == [numbers["toy.bands/loss"] for numbers in report.values()]
    assert coat.curves["answer"].steps == [3, 4]
    assert set(sft.curves) == {"answer"}
    assert sft.boundaries == [("joint", 0)]


def test_repeated_step_counts_once(trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(trained / "sft-0", again)
    lines = (again / "metrics.jsonl").read_text().splitlines()
    redone = json.loads(lines[0]) | {"loss/answer": 123.0}
    (again / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(redone)]) + "\n")
    (run,) = runs.read(find_runs([again]))
    assert run.curves["answer"].steps == [1, 2]
    assert run.curves["answer"].values[0] == 123.0


def test_cost_counts_trained_parameters(trained: Path) -> None:
    coat, sft = runs.read(find_runs([str(trained)]))
    align, joint = coat.costs
    assert (align.learns, align.steps, joint.learns, joint.steps) == ("embeddings", 2, "lora", 2)
    assert align.parameters["rows"] == (4 + 2) * 64
    assert align.parameters["backbone"] == 0 < align.parameters["heads"]
    assert joint.parameters["backbone"] > 0
    assert joint.seconds is not None
    assert joint.examples == 8
    assert sft.costs[0].parameters == {
        "rows": 0, "heads": 0, "backbone": joint.parameters["backbone"]
    }  # fmt: skip
    assert coat.parameters is not None
    assert coat.parameters > 10 * align.parameters["rows"]


def test_runs_with_different_recipes_are_separate_groups(trained: Path, tmp_path: Path) -> None:
    for name, change in (("other-seed", "seed: 0|seed: 7"), ("other-rank", "rank: 16|rank: 8")):
        old, new = change.split("|")
        (tmp_path / name).mkdir()
        recipe = (trained / "coat-0/recipe.yaml").read_text()
        assert old in recipe
        (tmp_path / name / "recipe.yaml").write_text(recipe.replace(old, new))
    result = runs.read(find_runs([str(trained / "coat-0"), str(tmp_path)]))
    assert {run.name: run.group for run in result} == {
        "coat-0": "coat", "other-seed": "coat", "other-rank": "other-rank"
    }  # fmt: skip
    assert [run.validation for run in result[1:]] == [{}, {}]


def test_predictions_are_the_outputs_of_the_heads(trained: Path, toy_data, tmp_path: Path) -> None:
    data = report_data([trained], tmp_path, [str(toy_data.cache)])
    assert data["predicting"] == "coat-0"
    assert data["metrics"]["toy.salience"] == "raw pitch accuracy"
    assert len(data["clips"]) == 3
    for clip in data["clips"]:
        kinds = [(track["source"], track["data"]["who"]) for track in clip["tracks"]]
        streams = list(dict.fromkeys(source for source, _ in kinds))
        assert streams == ["toy.bands", "toy.events", "toy.class", "toy.salience", "reconstruction"]
        assert [label for _, label in kinds] == ["cached", "predicted"] * (len(kinds) // 2)
        assert clip["question"] in ("What is said?", "Which note?", "Name the note.")
        assert clip["audio"].startswith("data:audio/ogg")
        assert clip["absent"] == []


def test_runs_with_a_block_are_preferred_for_predictions(trained: Path, tmp_path: Path) -> None:
    for name in ("distill-0", "sft-0"):
        shutil.copytree(trained / name.replace("distill", "coat"), tmp_path / name)
    recipe = tmp_path / "distill-0" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("arm: coat", "arm: distill"))
    chosen = page._choose_predicting(runs.read(find_runs([tmp_path])))
    assert chosen is not None
    assert (chosen.arm, page._read_from(chosen)) == ("distill", "the audio tokens")
    chosen = page._choose_predicting(runs.read(find_runs([tmp_path, trained])))
    assert chosen is not None
    assert (chosen.arm, page._read_from(chosen)) == ("coat", "the thinking block")


def test_metrics_of_shown_frames_equal_those_of_validation(trained: Path, toy_data) -> None:
    """The frames of all held-out clips must give the metric that training reported."""
    run = trained / "coat-0"
    streams = page.open_run_streams(Run(run), [str(toy_data.cache)])
    student = predictions.TrainedStudent(run, heads=True)
    grid = Grid.from_recipe(student.recipe, streams)
    outputs, targets = [], []
    for example, clips in predictions.read_held_out(run):
        frames = predictions._frames(student, grid, example, clips)
        if "toy.bands" in frames:
            outputs.append(frames["toy.bands"][0])
            targets.append(frames["toy.bands"][1])
    reported = json.loads((run / "report.json").read_text())["joint"]["toy.bands/metric"]
    shown = stream_metric(streams["toy.bands"], np.concatenate(outputs), np.concatenate(targets))
    assert shown == pytest.approx(reported, abs=1e-4)


@pytest.mark.parametrize("kind", ["features", "multilabel", "distribution", "pitch"])
def test_outputs_are_shown_on_the_scale_of_targets(kind: Any) -> None:
    logits_ND = np.random.default_rng(0).normal(size=(5, 7)) * 3
    shown_ND = to_target_units(kind, logits_ND)
    if kind == "features":
        assert np.array_equal(shown_ND, logits_ND)
        return
    assert ((shown_ND >= 0) & (shown_ND <= 1)).all()
    if kind == "distribution":
        assert np.allclose(shown_ND.sum(1), 1)
    if kind == "pitch":
        assert np.allclose(shown_ND[:, :-1].max(1), shown_ND[:, -1])
        assert (shown_ND[:, :-1].argmax(1) == logits_ND[:, :-1].argmax(1)).all()
