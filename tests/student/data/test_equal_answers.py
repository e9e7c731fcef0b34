"""Tests that answers that differ only in case or blanks are never offered together."""

from __future__ import annotations

import pytest

from manifests.clips import Clip
from student.config import TaskConfig
from student.data.examples import build_example, build_examples

SPELLINGS = ["Dog", "dog", "cat", "Cat "]


def clips() -> list[Clip]:
    return [
        Clip(clip_id=str(place), uri=f"{place}.wav", labels={"kind": SPELLINGS[place % 4]})
        for place in range(40)
    ]


def is_dog(choice: str) -> bool:
    return choice.lower() == "dog"


@pytest.mark.parametrize("choices", [2, 3, 4])
def test_equal_answers_are_not_offered_together(
    caplog: pytest.LogCaptureFixture, choices: int
) -> None:
    task = TaskConfig(questions=["Which?"], answer=["labels.kind"], choices=choices)
    for clip, example in zip(clips(), build_examples(clips(), [task]), strict=True):
        assert sorted(map(is_dog, example.choices)) == [False, True]
        assert clip.labels["kind"] in example.choices
    assert "'Cat ' and 'cat' are the same answer" in caplog.text


def test_examples_of_an_earlier_version_with_equal_answers_can_be_read() -> None:
    task = TaskConfig(questions=["Which?"], answer=["labels.kind"], choices=4)
    example = build_example(
        clips()[0], task, number=0, name="Which?", repeat=0, answers=sorted(SPELLINGS)
    )
    assert sorted(map(is_dog, example.choices)) == [False, True]
