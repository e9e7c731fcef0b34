"""eval, ablate and probe on a run that was trained for a few steps, and on a planted one."""

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
from student.train import train
from tests.student.evaluation.helpers import write_questions


@pytest.fixture(scope="module")
def run(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coat run of two steps a stage."""
    folder = tmp_path_factory.mktemp("runs") / "coat-0"
    train(world.options(folder))
    return folder


@pytest.fixture(scope="module")
def questions(world: Any) -> list[Question]:
    """Which note 36 clips have."""
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
        for clip in world.clips[2:38]
    ]


@pytest.fixture(scope="module")
def runner(run: Path) -> QuestionRunner:
    return QuestionRunner(run, batch_size=8)


def states(runner: QuestionRunner, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """States of the last layer, hooks included."""
    student = runner.trained.student
    with torch.no_grad():
        return student.base.model(
            **inputs, **student.backbone.positions(inputs), use_cache=False
        ).last_hidden_state


def flipped(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same prompts in the opposite order."""
    return {name: value.flip(0) for name, value in inputs.items()}


def test_questions_are_written_and_read_unchanged(
    questions: list[Question], tmp_path: Path
) -> None:
    write_questions(tmp_path / "q.jsonl", questions)
    assert read_questions(tmp_path / "q.jsonl") == questions


def test_bad_questions_are_named_by_line(tmp_path: Path) -> None:
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


def test_one_replaced_by_oneself_changes_nothing(
    runner: QuestionRunner, questions: list[Question]
) -> None:
    """The strongest check of the hooks: the replaced states are those of the very same pass."""
    student = runner.trained.student
    inputs = next(runner.batches(questions)).inputs
    intact = states(runner, inputs)
    with replaced(student, inputs, "other clip", source=inputs):
        torch.testing.assert_close(states(runner, inputs), intact)
    assert torch.equal(states(runner, inputs), intact), "the hooks are gone"


@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_every_layer_reads_what_it_is_given(
    kind: str, runner: QuestionRunner, questions: list[Question]
) -> None:
    student = runner.trained.student
    inputs = next(runner.batches(questions)).inputs
    places_BS = thinking_places(student, inputs["input_ids"])
    entered: list[dict[int, torch.Tensor]] = [{}, {}]

    def record_call(pass_number: int):
        def look(layer: int, states_BSH: torch.Tensor) -> torch.Tensor:
            entered[pass_number][layer] = states_BSH[places_BS].view(8, 4, -1)
            return states_BSH

        return entering_states(student, look)

    with record_call(0):
        states(runner, inputs)
    source = flipped(inputs) if kind == "other clip" else None
    with (
        replaced(student, inputs, kind, source=source, first_layer=1),  # type: ignore[arg-type]
        record_call(1),
    ):
        states(runner, inputs)
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


def test_replacing_states_reaches_the_answer(
    runner: QuestionRunner, questions: list[Question]
) -> None:
    inputs = next(runner.batches(questions)).inputs
    intact = states(runner, inputs)[:, -1]
    for kind in REPLACEMENTS:
        source = flipped(inputs) if kind == "other clip" else None
        with replaced(runner.trained.student, inputs, kind, source=source):
            assert not torch.allclose(states(runner, inputs)[:, -1], intact, atol=1e-4), kind


def test_partners_differ_in_the_answer_alone(questions: list[Question]) -> None:
    partners = find_partners(questions)
    for question, other in zip(questions, partners.places, strict=True):
        assert questions[other].answer != question.answer
    for question, swapped in zip(questions, swap_audio(questions, partners), strict=True):
        assert swapped.audio != question.audio
        assert swapped.answer == question.answer


def test_without_audio_answers_do_not_depend_on_it(
    runner: QuestionRunner, questions: list[Question]
) -> None:
    item, two = (runner.without_audio(runner.prompt(question)) for question in questions[:2])
    assert torch.equal(item.ids_S, two.ids_S)
    assert not item.audio


def test_ablation_of_a_run(run: Path, questions: list[Question]) -> None:
    report = ablate(run, questions, resamples=20)
    assert list(report["conditions"]) == [condition.name for condition in CONDITIONS]
    assert report["layers"] == [0, 1, 2]
    assert report["conditions"]["intact"]["change"] == {"score": 0, "low": 0, "high": 0}
    assert report["conditions"]["intact"]["same_reply"] == 1
    assert json.loads((run / "ablation.json").read_text()) == report
    draw_ablation(run / "ablation.png", [report])
    assert (run / "ablation.png").stat().st_size > 1000


def test_eval_of_runs(run: Path, questions: list[Question]) -> None:
    report = evaluation.evaluate(run, questions, "notes", batch_size=8)
    assert report["arm"] == "coat"
    assert json.loads((run / "eval" / "notes.json").read_text()) == report
    answers = read_answers(run, questions, "notes")
    right = sum(answer.right for answer in answers) / len(answers)
    assert report["tasks"]["note"]["score"] == pytest.approx(right)
    with pytest.raises(UserError, match="other questions"):
        read_answers(run, questions[:-1], "notes")
    base = evaluation.evaluate(run / "base", questions, "notes")
    assert base["arm"] == "base"
    result = compare({"sft": [answers], "coat": [answers]}, against=["sft"], resamples=20)
    assert result["differences"]["coat - sft"]["mean"] == {"score": 0, "low": 0, "high": 0}


def test_probes_of_runs(world: Any, run: Path, questions: list[Question]) -> None:
    result = probe([run, run / "base"], questions, caches=[str(world.cache)], num_spans=4)
    report = result[str(run)]
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


def test_a_planted_linear_map_is_found() -> None:
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


def test_reading_of_a_run(world: Any, run: Path) -> None:
    report = read_run(run, [str(world.cache)], pictures=1)
    assert set(report["streams"]) == {
        *(f"toy.{name}" for name in ("bands", "events", "class", "salience")),
        "reconstruction",
    }
    assert len(list(run.glob("reading-*.png"))) == 1


def test_reading_metrics_by_hand() -> None:
    logits_MD = np.array([[5.0, -5.0], [5.0, 5.0]])
    target_MD = np.array([[1.0, 0.0], [0.0, 1.0]])
    # Three classes said, two of them right, two present.
    result = frame_f1(logits_MD, target_MD, 0.5)
    assert result == pytest.approx({"frame_precision": 2 / 3, "frame_recall": 1.0, "frame_f1": 0.8})
    rates = voicing_rates(np.array([[1.0], [-1.0], [1.0]]), np.array([[1.0], [1.0], [0.0]]))
    assert rates == {"voicing_recall": 0.5, "voicing_false_alarm": 1.0}


def test_a_student_without_block(world: Any, tmp_path: Path, questions: list[Question]) -> None:
    train(dataclasses.replace(world.options(tmp_path / "sft"), arm="sft"))
    report = ablate(tmp_path / "sft", questions, resamples=20)
    assert list(report["conditions"]) == ["intact", "other audio", "no audio"]
    with pytest.raises(UserError, match="no heads to read with"):
        read_run(tmp_path / "sft", [str(world.cache)])
