"""Tests that training ends if no example is readable, and that equal answers are not offered."""

from __future__ import annotations

import pytest

from manifests.clips import Clip
from manifests.errors import UserError
from student.batch import PreparedExample
from student.config import TaskConfig
from student.data.examples import build_examples
from student.training.reading import SkippingDataset


class Unreadable:
    """Examples of which none can be prepared."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> PreparedExample:
        raise UserError(f"clip {index} cannot be read")


def test_few_examples_that_all_fail_end_training() -> None:
    with pytest.raises(UserError, match="none of the 3 examples could be prepared"):
        SkippingDataset(Unreadable())[0]  # type: ignore[arg-type]


def test_answers_that_differ_only_in_case_are_not_offered_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kinds = ["Dog", "dog", "cat", "Cat "]
    clips = [
        Clip(clip_id=str(place), uri=f"{place}.wav", labels={"kind": kind})
        for place, kind in enumerate(kinds)
    ]
    task = TaskConfig(questions=["Which?"], answer=["labels.kind"], choices=2)
    for clip, example in zip(clips, build_examples(clips, [task]), strict=True):
        assert len({choice.strip().lower() for choice in example.choices}) == 2
        assert clip.labels["kind"] in example.choices
    assert "the same answer" in caplog.text
