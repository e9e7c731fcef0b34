"""Tests the memory for building a run's examples, measured by allocations."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from benchmarks.scale import make_corpus
from student.config import DataConfig, TaskConfig
from student.data.build_table import open_examples
from student.data.corpus_pass import BLOCK_ROWS, DistinctAnswers, GrowingArray
from student.data.held_out import draw_by_task

TASKS = [
    TaskConfig(questions=["What is said?"], answer=["text"]),
    TaskConfig(questions=["What is heard?"], answer=["labels.sound"]),
]


def traced_peak(tmp_path: Path, clips: int) -> int:
    corpus = make_corpus(tmp_path / str(clips), clips, labelled=True)
    open_examples(tmp_path / f"warm-{clips}", corpus, {}, DataConfig(tasks=TASKS))
    tracemalloc.start()
    open_examples(tmp_path / f"examples-{clips}", corpus, {}, DataConfig(tasks=TASKS))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_a_further_clip_costs_the_builder_about_a_hundred_bytes(tmp_path: Path) -> None:
    """It was 313 bytes for each clip at the peak, in lists of small arrays."""
    few, many = traced_peak(tmp_path, 4_000), traced_peak(tmp_path, 24_000)
    assert (many - few) / 20_000 < 120


def test_a_growing_array_keeps_order_over_blocks() -> None:
    rng = np.random.default_rng(0)
    rows, whole = GrowingArray(np.dtype(np.int64)), []
    for size in (0, 5, BLOCK_ROWS - 6, 3, 2 * BLOCK_ROWS + 1, 0, 7):
        piece = rng.integers(0, 2**60, size)
        rows.extend(piece)
        whole.append(piece)
        assert len(rows) == sum(map(len, whole))
    np.testing.assert_array_equal(rows.whole(), np.concatenate(whole))


def test_distinct_answers_are_sorted_as_python_sorts_text(monkeypatch) -> None:
    monkeypatch.setattr("student.data.corpus_pass.PENDING_ANSWERS", 3)
    texts = [
        "zebra",
        "Äpfel",
        "apple",
        "😀",
        "\U0001d538",
        "ﬁ",
        "apple",
        "",
        "z",
        "é",
        "e\u0301",
    ] * 2
    answers = DistinctAnswers()
    for text in texts:
        answers.add(text)
    assert answers.sorted().to_pylist() == sorted(set(texts))


def test_a_draw_has_the_smallest_keys_of_each_task() -> None:
    rng = np.random.default_rng(0)
    key_E, task_E = rng.integers(0, 2**63, 500).astype("u8"), rng.integers(0, 3, 500)
    places = draw_by_task(key_E, task_E, 90)
    assert len(places) == 90
    for task in range(3):
        drawn = places[task_E[places] == task]
        others = np.setdiff1d(np.flatnonzero(task_E == task), drawn)
        assert key_E[drawn].max() < key_E[others].min()
