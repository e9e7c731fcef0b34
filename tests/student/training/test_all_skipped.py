"""Tests that training ends with the reason if none of a few examples can be read."""

from __future__ import annotations

import pytest

from manifests.errors import UserError
from student.batch import PreparedExample
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
