"""Tests for extraction, scores and intervals against cases computed by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from student.evaluation.analysis.pictures import draw_ablation
from student.evaluation.comparison import build_table, compare
from student.evaluation.questions import Question
from student.evaluation.scoring.extraction import extract_choice, extract_label
from student.evaluation.scoring.intervals import bootstrap, interval_without_variation, mcnemar
from student.evaluation.scoring.scores import (
    macro_f1,
    paired_interval,
    read_reply,
    score_answers,
    task_tables,
)
from tests.student.evaluation.helpers import mean_interval

ANIMALS = ("a dog", "a cat", "a cow", "a dog and a cat")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", "a cat"),
        ("b", "a cat"),
        ("(B)", "a cat"),
        ("B.", "a cat"),
        ("B) a cat", "a cat"),
        ("(B) a cat", "a cat"),
        ("The answer is B", "a cat"),
        ("The correct answer is (B).", "a cat"),
        ("Answer: B", "a cat"),
        ("A cat.", "a cat"),
        ("I hear a cat.", "a cat"),
        ("A dog and a cat", "a dog and a cat"),
        ("(D) a dog and a cat", "a dog and a cat"),
        ("A", "a dog"),
        ("A.", "a dog"),
        # The reply names no choice, or more than one.
        ("", None),
        ("A horse", None),
        ("a dog or a cow", None),
        ("A or B", None),
        ("(A) or (B)", None),
        ("(B) a dog", None),
        ("E", None),
        ("a caterpillar", None),
    ],
)
def test_extract_choice_reads_letters_and_texts(reply: str, expected: str | None) -> None:
    assert extract_choice(reply, ANIMALS) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("C", "C"),
        ("C sharp", "C sharp"),
        ("c sharp.", "C sharp"),
        ("It is C sharp", "C sharp"),
        ("C and C sharp", None),
        ("Csharp", None),
        ("H", None),
        ("", None),
    ],
)
def test_extract_label_prefers_the_longest_label(reply: str, expected: str | None) -> None:
    assert extract_label(reply, ("C", "C sharp", "D")) == expected


def question(kind: str, answer: str, task: str = "t", choices: tuple[str, ...] = ()) -> Question:
    return Question(
        id=f"{task}{answer}", kind=kind, audio="a.wav", question="?", answer=answer, task=task,
        choices=choices,
    )  # type: ignore[arg-type] # fmt: skip


def test_transcription_errors_are_counted_by_words() -> None:
    # One substitution, one deletion, one insertion against four words.
    answer = read_reply(question("transcription", "One two, three four!"), "one too four five")
    assert (answer.errors, answer.words) == (3, 4)
    assert read_reply(question("transcription", "Yes."), "yes").right


def test_open_label_must_match_exactly() -> None:
    assert read_reply(question("label", "snare"), "Snare.").right
    assert not read_reply(question("label", "snare"), "a snare").right


def test_macro_f1_matches_values_by_hand() -> None:
    # a: precision 1/1, recall 1/2, F1 2/3. b: precision 1/2, recall 1, F1 2/3. Mean 2/3.
    assert macro_f1(["a", "a", "b"], ["a", "b", "b"]) == pytest.approx(2 / 3)
    # A parse failure only lowers recall: a has F1 2/3, b 1.
    assert macro_f1(["a", "a", "b"], ["a", None, "b"]) == pytest.approx(5 / 6)


def test_score_answers_scores_each_task_over_seeds() -> None:
    labels = ("x", "y")
    questions = [
        question("label", "x", "label", labels),
        question("label", "y", "label", labels),
        question("transcription", "a b c d", "words"),
    ]
    first = [read_reply(q, reply) for q, reply in zip(questions, ["x", "x", "a b c"], strict=True)]
    second = [
        read_reply(q, reply) for q, reply in zip(questions, ["x", "?", "a b c d"], strict=True)
    ]
    scores = score_answers([first, second], resamples=50)
    label, words = scores["tasks"]["label"], scores["tasks"]["words"]
    assert label["score"] == 0.5
    assert label["chance"] == label["majority"] == 0.5
    assert label["parse_failures"] == 0.25
    assert words["by_seed"] == [0.75, 1.0]
    assert words["word_error_rate"] == pytest.approx(1 / 8)
    assert scores["mean"]["score"] == pytest.approx((0.5 + 0.875) / 2)


def test_word_error_rate_above_one_scores_zero() -> None:
    answers = [read_reply(question("transcription", "a"), "b c d")]
    assert score_answers([answers], resamples=10)["tasks"]["t"]["score"] == 0.0


def test_interval_of_a_mean_has_the_expected_width() -> None:
    values_SQ = np.random.default_rng(1).random((1, 400)) < 0.7
    interval = mean_interval(values_SQ, resamples=4000)
    mean = values_SQ.mean()
    half = 1.96 * np.sqrt(mean * (1 - mean) / 400)
    assert interval.value == mean
    assert interval.low == pytest.approx(mean - half, abs=0.01)
    assert interval.high == pytest.approx(mean + half, abs=0.01)


def test_different_seeds_widen_an_interval() -> None:
    equal, different = np.full((3, 100), 0.5), np.repeat([[0.2], [0.5], [0.8]], 100, axis=1)
    assert mean_interval(equal).high == 0.5
    assert mean_interval(different).low < 0.35 < 0.65 < mean_interval(different).high


def test_bootstrap_keeps_the_number_of_questions_of_each_task() -> None:
    def check(seeds: np.ndarray, draw: dict) -> float:
        assert len(draw["a"]) == 3
        assert len(draw["b"]) == 5
        assert draw["b"].max() < 5
        return 0.0

    bootstrap(check, {"a": 3, "b": 5}, num_seeds=2, resamples=20)


def test_paired_interval_is_narrower_than_separate_intervals() -> None:
    rng = np.random.default_rng(0)
    hard_Q = rng.random(300) < 0.5
    ours = [
        read_reply(question("label", f"{i}"), f"{i}" if ok else "-") for i, ok in enumerate(hard_Q)
    ]
    better_Q = hard_Q | (rng.random(300) < 0.1)
    theirs = [
        read_reply(question("label", f"{i}"), f"{i}" if ok else "-")
        for i, ok in enumerate(better_Q)
    ]
    paired = paired_interval(task_tables([theirs]), task_tables([ours]), resamples=500)
    assert paired.value == pytest.approx(better_Q.mean() - hard_Q.mean())
    assert paired.low > 0
    separate = score_answers([ours], resamples=500)["mean"]
    assert paired.high - paired.low < 0.7 * (separate["high"] - separate["low"])


def test_mcnemar_matches_values_by_hand() -> None:
    # Five questions improve and none gets worse: p = 2 / 2^5. One improves, two get worse: p = 1.
    ours, theirs = np.array([1] * 5 + [1] * 4), np.array([0] * 5 + [1] * 4)
    assert mcnemar(ours, theirs) == pytest.approx(2 / 32)
    assert mcnemar(np.array([1, 0, 0]), np.array([0, 1, 1])) == 1.0
    assert mcnemar(ours, ours) == 1.0


@pytest.mark.parametrize(
    ("reference", "reply", "errors", "words"),
    [
        # A reference without words has a defined rate (jiwer#98 and jiwer#108).
        ("\u266a", "", 0, 0),
        ("\u266a", "la la", 2, 0),
        ("", "", 0, 0),
        ("", "\u2014", 0, 0),
        ("-", " - ", 0, 0),
        ("yes", "", 1, 1),
        ("well - yes", "well yes", 0, 2),
        ("don't go", "don\u2019t go", 0, 2),
        ("\u201cgo\u201d", "go", 0, 1),
        ("caf\u00e9 ol\u00e9", "cafe\u0301 ole\u0301", 0, 2),
        # One vowel sign differs (Hindi, Thai).
        ("कि", "की", 1, 1),
        ("แม่ ซื้อ ไหม ใหม่", "แม ซือ ไหม ใหม", 3, 4),
    ],
)
def test_transcriptions_without_words_have_defined_scores(
    reference: str, reply: str, errors: int, words: int
) -> None:
    answer = read_reply(question("transcription", reference), reply)
    assert (answer.errors, answer.words) == (errors, words)
    scores = score_answers([[answer, answer]], resamples=10)
    json.dumps(scores, allow_nan=False)
    assert (answer.extracted is None) == (reply == "" and words > 0)
    assert scores["tasks"]["t"]["score"] == max(0, 1 - errors / max(words, 1 / 2))


def test_labels_without_words_are_compared_literally() -> None:
    assert read_reply(question("label", "!", choices=("!", "?")), "!").right
    assert not read_reply(question("label", "!", choices=("!", "?")), "?").right
    assert read_reply(question("label", "\u266a"), "\u266a").right
    assert not read_reply(question("label", "\u266a"), "\u266b").right


def test_single_question_has_no_interval() -> None:
    answers = [read_reply(question("label", "x"), "x")]
    scores = score_answers([answers], resamples=10)
    assert scores["tasks"]["t"]["score"] == 1
    assert scores["tasks"]["t"]["low"] is scores["tasks"]["t"]["high"] is None
    assert scores["mean"]["low"] is None


def test_picture_of_a_single_question_has_no_error_bars(tmp_path: Path) -> None:
    scores = score_answers([[read_reply(question("label", "x"), "x")]], resamples=10)
    report = {"arm": "sft", "seed": 0, "conditions": {"intact": scores, "no audio": scores}}
    draw_ablation(tmp_path / "a.png", [report])
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(("reply", "low", "high"), [("x", 0.9964, 1), ("y", 0, 0.0036)])
def test_interval_of_all_right_or_all_wrong_has_a_width(
    reply: str, low: float, high: float
) -> None:
    """EleutherAI/lm-evaluation-harness#4070; 1 - 0.025 ** (1 / 1000) is 0.0037."""
    answers = [read_reply(question("label", "x"), reply)] * 1000
    task = score_answers([answers], resamples=10)["tasks"]["t"]
    assert (task["low"], task["high"]) == pytest.approx((low, high), abs=2e-4)


def test_many_different_answers_are_scored_quickly() -> None:
    """Every label was looked for in every answer: ten minutes for 30,000 open questions."""
    answers = [f"answer {number}" for number in range(30_000)]
    start = time.process_time()
    assert macro_f1(answers, answers) == 1
    assert macro_f1(answers, [None, *answers[1:-1], "x"]) == pytest.approx(1 - 2 / 30_000)
    assert time.process_time() - start < 10


def test_scores_without_variation_have_an_interval_of_some_width() -> None:
    right, wrong = (read_reply(question("label", "x"), reply) for reply in ("x", "y"))
    scores = score_answers([[wrong] * 3], resamples=10)
    assert (scores["mean"]["low"], scores["mean"]["high"]) == pytest.approx((0, 0.7076), abs=1e-4)
    silent = read_reply(question("transcription", "good morning"), "")
    task = score_answers([[silent] * 3], resamples=10)["tasks"]["t"]
    assert (task["low"], task["high"]) == pytest.approx((0, 0.7076), abs=1e-4)
    same = paired_interval(task_tables([[right] * 3]), task_tables([[right] * 3]), resamples=10)
    assert (same.low, same.value, same.high) == pytest.approx((-0.7076, 0, 0.7076), abs=1e-4)


def test_row_of_means_has_the_means_of_the_baselines() -> None:
    choices = ("x", "y")
    asked = [
        Question(id=f"{task}{n}", kind="choice", audio="a.wav", question="?", answer=answer,
                 choices=choices, task=task)
        for task, answers in (("a", "xxxy"), ("b", "xy"))
        for n, answer in enumerate(answers)
    ]  # fmt: skip
    table = build_table(compare({"sft": [[read_reply(each, "x") for each in asked]]}, against=[]))
    chance, majority, score = (list(column.cells)[-1] for column in table.columns[2:])
    assert (chance, majority) == ("0.50", "0.62")
    assert str(score).startswith("0.62 (")


@pytest.mark.parametrize("count", [2, 5, 6, 20])
def test_difference_without_variation_agrees_with_mcnemars_test(count: int) -> None:
    right, wrong = (read_reply(question("label", "x"), reply) for reply in ("x", "y"))
    ours, theirs = task_tables([[wrong] * count]), task_tables([[right] * count])
    lost = paired_interval(ours, theirs, resamples=10)
    assert (lost.low, lost.value) == (-1, -1)
    assert lost.high is not None
    p = mcnemar(np.zeros(count, bool), np.ones(count, bool))
    assert (lost.high < 0) == (p < 0.05)


def test_interval_without_variation_covers_the_worst_case_over_tasks() -> None:
    """Compared with a search over the probabilities of two tasks of 3 and 30 questions."""
    counts = {"a": 3, "b": 30}
    interval = interval_without_variation({"a": 0.0, "b": 0.0}, counts)
    p_G = np.linspace(0, 1, 2001)
    p_a_GG, p_b_GG = np.meshgrid(p_G, p_G)
    is_possible_GG = (1 - p_a_GG) ** 3 * (1 - p_b_GG) ** 30 >= 0.025
    assert interval.low == 0
    assert interval.high == pytest.approx((p_a_GG + p_b_GG)[is_possible_GG].max() / 2, abs=1e-3)
    equal = interval_without_variation({"a": 1.0, "b": 0.0}, {"a": 5, "b": 5})
    assert (equal.low, equal.high) == pytest.approx((0.5 - 0.2609, 0.5 + 0.2609), abs=1e-4)
    counts = {"a": 20, "b": 24, "c": 20}  # The example in docs/evaluate.md.
    width = 2 * (1 - 0.025 ** (1 / 40)) / 3
    for lowest in (0.0, -1.0):
        example = interval_without_variation(dict.fromkeys(counts, 0.0), counts, lowest=lowest)
        assert (example.low, example.high) == pytest.approx((lowest and -width, width))
