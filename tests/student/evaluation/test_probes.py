"""Tests for probes: against plain ridge regression, the split by recordings, and titles."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from student.evaluation.analysis.linear_probes import PENALTIES, fit_ridges
from student.evaluation.analysis.probe import (
    _origin,
    build_table,
    describe_clips,
)
from student.evaluation.analysis.probe_targets import label_targets, score
from student.evaluation.analysis.probed_clips import by_clip, recording_keys
from student.evaluation.questions import Question


def plain_ridge(states_NH: np.ndarray, target_ND: np.ndarray, penalty: float):
    """Solves argmin over W of |X W - Y|^2 + penalty * |W|^2 directly."""
    mean_H, scale_H = states_NH.mean(0), states_NH.std(0).clip(1e-6)
    standard_NH = (states_NH - mean_H) / scale_H
    gram_HH = standard_NH.T @ standard_NH + penalty * np.eye(states_NH.shape[1])
    weight_HD = np.linalg.solve(gram_HH, standard_NH.T @ (target_ND - target_ND.mean(0)))
    return lambda rows: (rows - mean_H) / scale_H @ weight_HD + target_ND.mean(0)


def fit_with_best_penalty(states_NH: np.ndarray, target_ND: np.ndarray, groups_N: np.ndarray):
    checking_N = groups_N % 4 == 3

    def error(penalty: float) -> float:
        ridge = plain_ridge(states_NH[~checking_N], target_ND[~checking_N], penalty)
        return float(((ridge(states_NH[checking_N]) - target_ND[checking_N]) ** 2).mean())

    return plain_ridge(states_NH, target_ND, min(PENALTIES, key=error))


@pytest.mark.parametrize(("rows", "width"), [(600, 24), (600, 150), (60, 150)])
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_fit_ridges_matches_separate_ridge_regressions(
    rows: int, width: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("student.evaluation.analysis.linear_probes.CHUNK_ROWS", 128)
    rng = np.random.default_rng(0)
    states_NH = (5 + rng.standard_normal((rows, width)) * np.geomspace(0.1, 10, width)).astype(
        dtype
    )
    wide_NH = states_NH.astype(np.float64)
    targets = [
        wide_NH @ rng.standard_normal((width, 3)) + noise * rng.standard_normal((rows, 3))
        for noise in (0.01, 1.0, 300.0)
    ]
    groups_N = np.arange(rows) // 4
    fresh_NH = 5 + rng.standard_normal((50, width))
    for ridge, target_ND in zip(fit_ridges(states_NH, targets, groups_N), targets, strict=True):
        expected = fit_with_best_penalty(wide_NH, target_ND, groups_N)(fresh_NH)
        np.testing.assert_allclose(ridge(fresh_NH), expected, rtol=1e-5, atol=1e-5)


def test_recordings_of_a_group_are_on_the_same_side() -> None:
    """States identify the recording, and labels are random for each recording. Only a probe that
    was trained on the same recording can predict them."""
    rng = np.random.default_rng(0)
    group_C = np.repeat(np.arange(40), 5)
    labels = [("x", "y")[int(bit)] for bit in rng.integers(2, size=40)[group_C]]
    states_C1H = np.eye(40)[group_C][:, None] + 0.01 * rng.standard_normal((200, 1, 40))
    by_group = rng.random(40) < 0.3
    targets = label_targets({"t": labels}, by_group[group_C])
    by_recording = score(states_C1H, targets, by_group[group_C], group_C)["t"]
    mixed = score(states_C1H, targets, rng.random(200) < 0.3, np.arange(200))["t"]
    assert mixed > 0.95
    assert by_recording < 0.75


def test_floor_is_the_score_of_the_commonest_fitted_label_on_the_scored_clips() -> None:
    """It used to be the share of the commonest label among all clips, which no score is about."""
    labels = ["x", "x", "x", "y", "y", None, "y", "x", "y"]
    testing_C = np.array([False] * 4 + [True] * 5)
    target = label_targets({"t": labels}, testing_C)["t"]
    assert (target.floor, target.num_scored) == (0.25, 4)
    states_C1H = np.zeros((9, 1, 2))
    many = 4
    scores = score(
        np.tile(states_C1H, (many, 1, 1)),
        {"t": label_targets({"t": labels * many}, np.tile(testing_C, many))["t"]},
        np.tile(testing_C, many),
        np.arange(9 * many),
    )
    assert scores["t"] == target.floor


def test_recordings_depend_on_files_and_groups_and_not_on_folders() -> None:
    def clip(number: int, audio: str, group: str | None = None) -> Question:
        return Question(id=f"c{number}", kind="label", audio=audio, question="?", answer="x",
                        group=group)  # fmt: skip

    def clips(folder: str) -> list[Question]:
        return [
            clip(3, f"{folder}/a.wav"), clip(1, f"{folder}/a.wav"), clip(2, f"{folder}/b.wav"),
            clip(5, f"{folder}/c.wav", "anna"), clip(4, f"{folder}/d.wav", "anna"),
        ]  # fmt: skip

    assert recording_keys(clips("/here")) == ["c1", "c1", "c2", "c4", "c4"]
    assert recording_keys(clips("/there")) == recording_keys(clips("/here"))


@pytest.mark.parametrize(
    ("held_out", "learnt", "text"),
    [
        (36, 0, "36 held-out clips"),
        (10, 26, "36 clips: 10 held out, 26 trained on"),
        (10, None, "36 clips: 10 held out, the others possibly trained on"),
        (0, 0, "36 clips: 36 from elsewhere"),
        (10, 20, "36 clips: 10 held out, 20 trained on, 6 from elsewhere"),
        (None, None, "36 clips"),
    ],
)
def test_title_of_the_table_describes_the_clips(held_out: int, learnt: int, text: str) -> None:
    report = {"clips": 36, "held_out": held_out, "learnt": learnt, "arm": "coat", "seed": 0,
              "targets": {}}  # fmt: skip
    assert describe_clips(report) == text
    title = str(build_table({"run": report}).title)
    assert title == f"linear probes on {text}: best layer of each group"


def test_clips_without_ids_are_possibly_trained_on() -> None:
    """They used to be "from elsewhere" if the cache does not know their question's id."""
    run: Any = SimpleNamespace(
        held_out_file=Path(__file__), held_out=lambda: [], has_examples=lambda: False
    )
    stream: Any = SimpleNamespace(covers=lambda clip_id: clip_id == "in the cache")

    def clip(clip_id: str | None) -> Question:
        return Question(
            id=f"q {clip_id}", kind="label", audio="/a.wav", question="?", answer="x",
            clip_id=clip_id,
        )  # fmt: skip

    known = [clip("in the cache"), clip("not there")]
    assert _origin(run, known, [stream]) == {"held_out": 0, "learnt": 1}
    assert _origin(run, [*known, clip(None)], [stream]) == {"held_out": 0, "learnt": None}
    assert _origin(run, known, []) == {"held_out": 0, "learnt": None}


def test_questions_without_a_clip_id_about_one_recording_are_one_clip() -> None:
    def ask(number: int, audio: str, task: str, clip_id: str | None = None) -> Question:
        return Question(
            id=f"q{number}", kind="label", audio=audio, question="?", answer=f"x{number}",
            task=task, clip_id=clip_id,
        )  # fmt: skip

    asked = [
        ask(0, "/a.wav", "language"), ask(1, "/a.wav", "words"), ask(2, "/b.wav", "words"),
        ask(3, "/c.wav", "words", "c"), ask(4, "/c.wav", "language", "c"),
    ]  # fmt: skip
    clips, labels = by_clip(asked)
    assert [clip.id for clip in clips] == ["q0", "q2", "c"]
    assert labels == {"language": ["x0", None, "x4"], "words": ["x1", "x2", "x3"]}
