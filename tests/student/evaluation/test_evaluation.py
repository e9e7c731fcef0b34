"""Tests eval, ablate and probe on a run that was trained for a few steps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests.errors import UserError
from student.distill.metrics import frame_f1, voicing_rates
from student.evaluation import evaluate as evaluation
from student.evaluation.analysis.ablate import CONDITIONS, ablate
from student.evaluation.analysis.head_quality import read_run
from student.evaluation.analysis.linear_probes import explained, fit_ridges
from student.evaluation.analysis.pictures import draw_ablation, draw_probes
from student.evaluation.analysis.probe import probe
from student.evaluation.analysis.probed_clips import is_scored, recording_keys
from student.evaluation.analysis.state_edits import (
    REPLACEMENTS,
    entering_states,
    replaced,
    thinking_places,
)
from student.evaluation.answering import QuestionRunner
from student.evaluation.comparison import compare
from student.evaluation.partners import find_partners, swap_audio
from student.evaluation.question_files import read_questions
from student.evaluation.questions import Question
from student.evaluation.results import read_answers
from student.runs.folder import Run
from student.train import train
from tests.student.evaluation.helpers import write_questions


@pytest.fixture(scope="module")
def run(toy_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coat run with two steps in each stage."""
    folder = tmp_path_factory.mktemp("runs") / "coat-0"
    train(toy_data.options(folder))
    return folder


@pytest.fixture(scope="module")
def questions(toy_data: Any) -> list[Question]:
    """Questions about the note of 36 clips."""
    notes = ("low", "middle", "high", "top")
    return [
        Question(
            id=clip.clip_id,
            kind="label",
            audio=clip.uri,
            question="Which note?",
            answer=str(clip.labels["note"]),
            choices=notes,
            task="note",
            clip_id=clip.clip_id,
        )
        for clip in toy_data.clips[2:38]
    ]


@pytest.fixture(scope="module")
def runner(run: Path) -> QuestionRunner:
    return QuestionRunner(run, batch_size=8)


def last_states(runner: QuestionRunner, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns the states of the last layer, with all hooks active."""
    student = runner.trained.student
    with torch.no_grad():
        return student.base.model(
            **inputs, **student.backbone.positions(inputs), use_cache=False
        ).last_hidden_state


def reverse_batch(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the same prompts in reverse order."""
    return {name: value.flip(0) for name, value in inputs.items()}


def test_questions_are_written_and_read_unchanged(
    questions: list[Question], tmp_path: Path
) -> None:
    write_questions(tmp_path / "q.jsonl", questions)
    assert read_questions(tmp_path / "q.jsonl") == questions


def test_invalid_question_raises_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('\n{"id": "1", "kind": "label", "audio": "a.wav"}\n')
    with pytest.raises(
        UserError,
        match=r"line 2: not a question: it lacks question, answer; keys are id, kind.*such as",
    ):
        read_questions(path)
    row = {"id": "1", "kind": "choice", "audio": "a", "question": "?", "answer": "x"}
    path.write_text(json.dumps(row | {"choices": ["y", "z"]}))
    with pytest.raises(UserError, match="answer 'x' is not one of its choices"):
        read_questions(path)


def test_replacing_states_by_themselves_changes_nothing(
    runner: QuestionRunner, questions: list[Question]
) -> None:
    """The replacement takes the states of the same pass, which checks the hooks."""
    student = runner.trained.student
    inputs = next(runner.batches(questions)).inputs
    intact = last_states(runner, inputs)
    with replaced(student, inputs, "other clip", source=inputs):
        torch.testing.assert_close(last_states(runner, inputs), intact)
    assert torch.equal(last_states(runner, inputs), intact), "the hooks were not removed"


@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_every_layer_reads_the_replaced_states(
    kind: str, runner: QuestionRunner, questions: list[Question]
) -> None:
    student = runner.trained.student
    inputs = next(runner.batches(questions)).inputs
    places_BS = thinking_places(student, inputs["input_ids"])
    entered: list[dict[int, torch.Tensor]] = [{}, {}]

    def record_layers(pass_number: int):
        def record_states(layer: int, states_BSH: torch.Tensor) -> torch.Tensor:
            entered[pass_number][layer] = states_BSH[places_BS].view(8, 4, -1)
            return states_BSH

        return entering_states(student, record_states)

    with record_layers(0):
        last_states(runner, inputs)
    source = reverse_batch(inputs) if kind == "other clip" else None
    with (
        replaced(student, inputs, kind, source=source, first_layer=1),  # type: ignore[arg-type]
        record_layers(1),
    ):
        last_states(runner, inputs)
    before, after = entered
    torch.testing.assert_close(after[0], before[0])
    for layer in (1, 2):
        intact_BKH, new_BKH = before[layer], after[layer]
        if kind == "zero":
            assert not new_BKH.any()
        elif kind == "random":
            torch.testing.assert_close(new_BKH.norm(dim=-1), intact_BKH.norm(dim=-1))
            assert torch.cosine_similarity(new_BKH, intact_BKH, dim=-1).abs().mean() < 0.3
        elif kind == "other clip":
            torch.testing.assert_close(new_BKH, intact_BKH.flip(0), atol=1e-4, rtol=1e-4)
        else:
            torch.testing.assert_close(new_BKH, intact_BKH[:, :1].expand_as(new_BKH))


def test_replacing_states_changes_the_answer_position(
    runner: QuestionRunner, questions: list[Question]
) -> None:
    inputs = next(runner.batches(questions)).inputs
    intact = last_states(runner, inputs)[:, -1]
    for kind in REPLACEMENTS:
        source = reverse_batch(inputs) if kind == "other clip" else None
        with replaced(runner.trained.student, inputs, kind, source=source):
            assert not torch.allclose(last_states(runner, inputs)[:, -1], intact, atol=1e-4), kind


def test_partners_differ_only_in_audio_and_answer(questions: list[Question]) -> None:
    partners = find_partners(questions)
    for question, other in zip(questions, partners.places, strict=True):
        assert questions[other].answer != question.answer
    for question, swapped in zip(questions, swap_audio(questions, partners), strict=True):
        assert swapped.audio != question.audio
        assert swapped.answer == question.answer


def test_prompt_without_audio_is_the_same_for_all_clips(
    runner: QuestionRunner, questions: list[Question]
) -> None:
    first, second = (runner.without_audio(runner.prompt(question)) for question in questions[:2])
    assert torch.equal(first.ids_S, second.ids_S)
    assert not first.audio


def test_ablate_writes_a_report_for_every_condition(run: Path, questions: list[Question]) -> None:
    report = ablate(run, questions, resamples=20)
    assert list(report["conditions"]) == [condition.name for condition in CONDITIONS]
    assert report["layers"] == [0, 1, 2]
    assert report["conditions"]["intact"]["change"] == {"score": 0, "low": None, "high": None}
    assert report["conditions"]["intact"]["same_reply"] == 1
    assert json.loads((run / "ablation.json").read_text()) == report
    draw_ablation(run / "ablation.png", [report])
    assert (run / "ablation.png").stat().st_size > 1000


def test_evaluate_writes_scores_and_answers(run: Path, questions: list[Question]) -> None:
    report = evaluation.evaluate(run, questions, "notes", batch_size=8)
    assert report["arm"] == "coat"
    assert json.loads((run / "eval" / "notes.json").read_text()) == report
    answers = read_answers(run, questions, "notes")
    right = sum(answer.right for answer in answers) / len(answers)
    assert report["tasks"]["note"]["score"] == pytest.approx(right)
    with pytest.raises(UserError, match="other questions"):
        read_answers(run, questions[:-1], "notes")
    # The tables on the screen show the stored intervals.
    compared = compare({"coat": [answers]}, against=["coat"])["arms"]["coat"]
    for task, scores in report["tasks"].items():
        shown = compared["tasks"][task]
        assert (shown["low"], shown["high"]) == (scores["low"], scores["high"])
    assert compared["mean"] | report["mean"] == compared["mean"]
    base = evaluation.evaluate(run / "base", questions, "notes")
    assert base["arm"] == "base"
    result = compare({"sft": [answers], "coat": [answers]}, against=["sft"], resamples=20)
    mean = result["differences"]["coat - sft"]["mean"]
    assert mean["score"] == 0
    assert mean["low"] == -mean["high"] < 0, "equal answers do not prove that students are equal"


def test_probe_writes_scores_for_labels_and_streams(
    toy_data: Any, run: Path, questions: list[Question]
) -> None:
    # A task whose only clips are used for fitting has no scores; it used to be printed as 0.00.
    fitted = [
        question
        for question, recording in zip(questions, recording_keys(questions), strict=True)
        if not is_scored(recording)
    ]
    rare = [
        dataclasses.replace(question, id=f"rare-{question.id}", task="rare", answer="low")
        for question in fitted[:2]
    ]
    asked = [*questions, *rare]
    result = probe([run, run / "base"], asked, caches=[str(toy_data.cache)], num_spans=4)
    report = result[str(run)]
    assert "rare" not in report["targets"]
    assert {"note", "toy.bands", "toy.salience"} <= set(report["targets"])
    scores = report["targets"]["toy.bands"]["scores"]
    assert {group: len(values) for group, values in scores.items()} == {
        "audio": 4,
        "thinking": 4,
        "decision": 4,
    }
    # The embeddings of the block are the same for every clip; the audio's are not.
    assert scores["thinking"][0] < 0.05 < scores["audio"][0]
    assert "thinking" not in result[str(run / "base")]["targets"]["note"]["scores"]
    assert json.loads((run / "probes.json").read_text()) == report
    draw_probes(run / "probes.png", list(result.values()))
    assert (run / "probes.png").stat().st_size > 1000


def test_ridge_recovers_a_linear_map_and_not_noise() -> None:
    rng = np.random.default_rng(0)
    states_NH, noise_NH = rng.standard_normal((400, 20)), rng.standard_normal((400, 20))
    target_ND = 3 + states_NH @ rng.standard_normal((20, 2)) + 0.1 * rng.standard_normal((400, 2))
    learning, testing = slice(0, 300), slice(300, 400)

    def score(inputs_NH: np.ndarray) -> float:
        (ridge,) = fit_ridges(inputs_NH[learning], [target_ND[learning]], np.arange(300))
        baseline_D = target_ND[learning].mean(0)
        return explained(ridge(inputs_NH[testing]), target_ND[testing], baseline_D)

    assert score(states_NH) > 0.98
    assert abs(score(noise_NH)) < 0.1


def test_read_run_reports_all_streams(toy_data: Any, run: Path) -> None:
    report = read_run(run, [str(toy_data.cache)], pictures=1)
    assert set(report["streams"]) == {
        *(f"toy.{name}" for name in ("bands", "events", "class", "salience")),
        "reconstruction",
    }
    assert len(list(run.glob("reading-*.png"))) == 1
    # The baseline is the mean of the training clips, as in the table of the training.
    means = Run(run).target_means()
    assert means.keys() == report["streams"].keys()
    Run(run).write_target_means(means | {"toy.bands": means["toy.bands"] + 100})
    changed = read_run(run, [str(toy_data.cache)], pictures=0)
    Run(run).write_target_means(means)
    for name, numbers in report["streams"].items():
        again = changed["streams"][name]["mean_predictor"]
        assert (again == numbers["mean_predictor"]) == (name != "toy.bands")


def test_frame_f1_and_voicing_rates_match_values_by_hand() -> None:
    logits_MD = np.array([[5.0, -5.0], [5.0, 5.0]])
    target_MD = np.array([[1.0, 0.0], [0.0, 1.0]])
    # Three classes are predicted, two of them correctly; two are present.
    result = frame_f1(logits_MD, target_MD, 0.5)
    assert result == pytest.approx({"frame_precision": 2 / 3, "frame_recall": 1.0, "frame_f1": 0.8})
    rates = voicing_rates(np.array([[1.0], [-1.0], [1.0]]), np.array([[1.0], [1.0], [0.0]]))
    assert rates == {"voicing_recall": 0.5, "voicing_false_alarm": 1.0}


def test_student_without_a_block_has_fewer_conditions_and_no_heads(
    toy_data: Any, tmp_path: Path, questions: list[Question]
) -> None:
    train(dataclasses.replace(toy_data.options(tmp_path / "sft"), arm="sft"))
    report = ablate(tmp_path / "sft", questions, resamples=20)
    assert list(report["conditions"]) == ["intact", "other audio", "no audio"]
    with pytest.raises(UserError, match="no heads to read with"):
        read_run(tmp_path / "sft", [str(toy_data.cache)])
