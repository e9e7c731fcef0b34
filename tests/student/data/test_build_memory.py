"""Tests for building a run's examples: memory, growing arrays, distinct answers, and draws."""

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


def test_builder_needs_at_most_120_bytes_per_clip(tmp_path: Path) -> None:
    """With lists of small arrays, the peak was 313 bytes per clip."""
    few, many = traced_peak(tmp_path, 4_000), traced_peak(tmp_path, 24_000)
    assert (many - few) / 20_000 < 120


def test_growing_array_keeps_its_order_across_blocks() -> None:
    rng = np.random.default_rng(0)
    rows, whole = GrowingArray(np.dtype(np.int64)), []
    for size in (0, 5, BLOCK_ROWS - 6, 3, 2 * BLOCK_ROWS + 1, 0, 7):
        part = rng.integers(0, 2**60, size)
        rows.extend(part)
        whole.append(part)
        assert len(rows) == sum(map(len, whole))
    np.testing.assert_array_equal(rows.whole(), np.concatenate(whole))


def test_distinct_answers_are_sorted_by_code_point(monkeypatch) -> None:
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


def test_draw_by_task_takes_the_smallest_keys_of_each_task() -> None:
    rng = np.random.default_rng(0)
    key_E, task_E = rng.integers(0, 2**63, 500).astype("u8"), rng.integers(0, 3, 500)
    places = draw_by_task(key_E, task_E, 90)
    assert len(places) == 90
    for task in range(3):
        drawn = places[task_E[places] == task]
        others = np.setdiff1d(np.flatnonzero(task_E == task), drawn)
        assert key_E[drawn].max() < key_E[others].min()
