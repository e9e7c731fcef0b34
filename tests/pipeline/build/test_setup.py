"""Tests which teachers a configuration gives."""

from __future__ import annotations

import pytest

from manifests.errors import UserError
from pipeline.build import setup
from pipeline.config import BuildConfig, TeacherConfig
from tests.pipeline.conftest import ENERGY


def build_config(teacher: str, teachers: str = "") -> BuildConfig:
    chosen = {teacher: TeacherConfig(family=ENERGY)}
    return BuildConfig(
        corpus="corpus", cache="cache", preset="none", teachers=teachers, teacher=chosen
    )


def test_teacher_that_is_listed_twice_runs_once():
    setups = setup.teachers(build_config("energy", teachers="energy, energy"))
    assert [teacher.name for teacher in setups] == ["energy"]


@pytest.mark.parametrize("name", ["decode", "commit"])
def test_teacher_named_like_a_step_raises_an_error(name: str):
    with pytest.raises(UserError, match=f"cannot be named '{name}'.*another name"):
        setup.teachers(build_config(name))
