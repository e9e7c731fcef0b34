"""Tests of numbers in messages."""

from __future__ import annotations

import pytest

from manifests.wording import number_of


@pytest.mark.parametrize(
    ("number", "forms", "expected"),
    [
        (0, ("clip",), "0 clips"),
        (1, ("clip",), "1 clip"),
        (2000, ("clip",), "2,000 clips"),
        (1, ("clip has", "clips have"), "1 clip has"),
        (2, ("clip has", "clips have"), "2 clips have"),
    ],
)
def test_number_agrees_with_noun(number: int, forms: tuple[str, ...], expected: str) -> None:
    assert number_of(number, *forms) == expected
