"""Tests that replies of many kinds and languages are parsed as in `replies.yaml`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from student.evaluation.scoring.extraction import extract_choice, extract_label

GROUPS = yaml.safe_load(Path(__file__).with_name("replies.yaml").read_text(encoding="utf-8"))
ROWS = [
    (group["reads"], tuple(group["choices"]), reply, answer)
    for group in GROUPS
    for reply, answer in group["replies"].items()
]


@pytest.mark.parametrize(("reads", "choices", "reply", "answer"), ROWS)
def test_reply_is_parsed_as_in_the_example(
    reads: str, choices: tuple[str, ...], reply: str, answer: str | None
) -> None:
    extract = extract_choice if reads == "choice" else extract_label
    assert extract(reply, choices) == answer
