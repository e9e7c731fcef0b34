"""Tests which teachers a configuration gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manifests.cache.layout import Layout
from manifests.errors import UserError
from pipeline.build import setup
from pipeline.config import BuildConfig, TeacherConfig
from tests.pipeline.conftest import ENERGY


def build_config(teacher: str, teachers: list[str] | str = "") -> BuildConfig:
    chosen = {teacher: TeacherConfig(family=ENERGY)}
    return BuildConfig(
        corpus="corpus", cache="cache", preset="none", teachers=teachers, teacher=chosen
    )


@pytest.mark.parametrize("teachers", ["energy, energy", ["energy", "energy"]])
def test_teacher_that_is_listed_twice_runs_once(teachers: list[str] | str):
    setups = setup.teachers(build_config("energy", teachers=teachers))
    assert [teacher.name for teacher in setups] == ["energy"]


@pytest.mark.parametrize("name", ["decode", "commit"])
def test_teacher_named_like_a_step_raises_an_error(name: str):
    with pytest.raises(UserError, match=f"cannot be named '{name}'.*another name"):
        setup.teachers(build_config(name))


def test_misspelt_teacher_beside_a_selection_raises_an_error(tmp_path: Path):
    """Its settings used to be left out silently, because it is not among those that run."""
    layout = Layout.create(tmp_path)
    (energy,) = setup.teachers(build_config("energy"))
    layout.add_teacher(energy.spec)
    wrong = TeacherConfig(settings={"gain": 2.0})
    config = build_config("energy", teachers="energy")
    config = replace(config, teacher=dict(config.teacher) | {"enregy": wrong})
    for make in (setup.teachers, lambda config: setup.existing_teachers(layout, config)):
        with pytest.raises(UserError, match=r"enregy needs a family.*did you mean energy\?"):
            make(config)


def test_family_of_a_teacher_that_does_not_run_is_checked(caplog: pytest.LogCaptureFixture):
    config = BuildConfig(
        corpus="c", cache="k", teachers="pitch", teacher={"x": TeacherConfig(family="crep")}
    )
    with pytest.raises(UserError, match="teacher x: unknown family 'crep'; did you mean crepe"):
        setup.teachers(config)
    own = replace(config, teacher={"x": TeacherConfig(family="not_here:Own")})
    assert [each.name for each in setup.teachers(own)] == ["pitch"]
    assert "not run, because `teachers` does not name them: x" in caplog.text


def test_adapter_that_differs_from_the_drivers_raises_an_error() -> None:
    """Workers wrote the output of another file under the fingerprint of the driver's."""
    (energy,) = setup.teachers(build_config("energy"))
    assert energy.make().spec().name == "energy"
    other = replace(energy, source="0" * 64)
    with pytest.raises(UserError, match=r"fakes.py on this node, which differs from the driver"):
        other.make()
