"""Tests the output of `coat-student arms`: the final table, and the counts of examples."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from manifests.errors import UserError
from student.arms import describe_other_examples, run_arms
from student.config import HeadConfig
from student.run_options import ArmsOptions


def test_table_shows_the_steps_of_each_arm(toy_data: Any, tmp_path: Path, capsys: Any) -> None:
    """The arm sft has no stage `align`, so it has fewer steps."""
    options = toy_data.options(tmp_path / "arms")
    common = {item.name: getattr(options, item.name) for item in dataclasses.fields(options)}
    table = run_arms(ArmsOptions(**common, arms=["sft", "coat"], seeds=[0]))
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["arm"] == ["sft", "coat"]
    assert cells["align steps"] == ["0", "2"]
    assert cells["joint steps"] == ["2", "2"]
    output = capsys.readouterr().out
    for task, count in (("What is said", 24), ("Which note", 48)):
        counts = re.search(rf"{task}\?: (\d+) examples to learn from, (\d+) held out", output)
        assert counts is not None
        assert int(counts[1]) + int(counts[2]) == count


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": ["sft", "coat", "sft"]}, "arms must list at least one value, and none twice"),
        ({"seeds": [0, 0]}, "seeds must list at least one value, and none twice"),
        ({"seeds": []}, "seeds must list at least one value"),
        ({"arms": ["coat", "sft"], "joint": None}, "arm sft: recipe: align, joint must be"),
        ({"arms": ["distill", "coat"], "heads": HeadConfig(per_token=True)}, "arm coat: recipe:"),
    ],
)
def test_wrong_arms_are_refused_before_any_is_trained(
    changed: dict[str, Any], message: str, toy_data: Any, tmp_path: Path
) -> None:
    """An arm with a wrong recipe was found after those before it were trained, and a seed that was
    listed twice counted as two."""
    options = toy_data.options(tmp_path / "arms")
    common = {item.name: getattr(options, item.name) for item in dataclasses.fields(options)}
    with pytest.raises(UserError, match=message):
        ArmsOptions(**(common | {"arms": ["sft"], "seeds": [0]} | changed))


def test_runs_with_other_held_out_examples_are_named() -> None:
    same = {"arms/sft-0": "1", "arms/coat-0": "1"}
    assert describe_other_examples(same) is None
    note = describe_other_examples({"arms/sft-0": "1", "arms/coat-0": "2"})
    assert note is not None
    assert "arms/sft-0 had other held-out examples" in note
