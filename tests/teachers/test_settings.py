"""Tests that a teacher's settings are checked before any clip is processed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from manifests.errors import UserError
from teachers import catalogue, registry
from teachers.settings import Count, Share, check_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSettings:
    power: float = 1.0
    frames: Count = 1
    share: Share = 0.5
    flag: bool = False
    name: str = ""
    size: Literal["tiny", "full", 2] = "tiny"
    labels: tuple[str, ...] = ()
    limit: float | None = None
    anything: dict[str, int] | None = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"power": "zwei"}, "power: expected a number, found 'zwei'"),
        ({"power": True}, "power: expected a number, found True"),
        ({"power": None}, "power: expected a number, found None"),
        ({"power": float("nan")}, "power: expected a number, found nan"),
        ({"frames": 2.0}, "frames: expected a whole number at least 1, found 2.0"),
        ({"frames": 0}, "frames: expected a whole number at least 1, found 0"),
        ({"share": 7}, "share: expected a number from 0 to 1, found 7"),
        ({"flag": 0}, "flag: expected true or false, found 0"),
        ({"flag": "no"}, "flag: expected true or false, found 'no'"),
        ({"name": 3}, "name: expected a text, found 3"),
        ({"size": "huge"}, "size: expected one of 'tiny', 'full', 2, found 'huge'"),
        ({"labels": "a piano"}, "labels: expected a list of texts, found 'a piano'"),
        ({"labels": ["a piano", 3]}, "labels: expected a list of texts"),
        ({"limit": "x"}, "limit: expected a number or null, found 'x'"),
    ],
)
def test_values_of_another_type_are_reported(values: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        check_settings(OwnSettings, values)
    assert str(caught.value).startswith(message)


def test_right_values_are_accepted_as_they_are():
    check_settings(
        OwnSettings,
        {"power": 2, "frames": 3, "share": 0, "flag": True, "size": 2, "labels": ["a"],
         "limit": None, "anything": {"a": 1}, "name": "", "unknown": object()},
    )  # fmt: skip


def test_settings_whose_types_cannot_be_resolved_are_not_checked():
    class Odd:
        power: NotImported  # noqa: F821

    check_settings(Odd, {"power": "zwei"})


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("basic_pitch", {"onset_threshold": "zwei"}, "a number from 0 to 1, found 'zwei'"),
        ("basic_pitch", {"onset_threshold": 7}, "a number from 0 to 1, found 7"),
        ("yamnet", {"hop_s": None}, "a number, found None"),
        ("whisper_ct2", {"transcribe": 0}, "true or false, found 0"),
        ("whisper_ct2", {"compute_type": "foo"}, "one of 'float32', 'float16'"),
        ("crepe", {"half": "vielleicht"}, "true or false, found 'vielleicht'"),
        ("crepe", {"batch_frames": -3}, "a whole number at least 0, found -3"),
        ("transformers:a/b", {"window_s": -1.0}, "a number at least 0, found -1.0"),
    ],
)
def test_settings_of_families_are_checked(family: str, settings: dict[str, Any], message: str):
    (name,) = settings
    with pytest.raises(UserError) as caught:
        registry.make("own", family, settings)
    assert f"teacher own: settings.{name}: expected {message}" in str(caught.value)


@pytest.mark.parametrize("family", catalogue.CATALOGUE, ids=lambda family: family.name)
def test_defaults_of_every_family_fit_their_types(family: catalogue.Family):
    settings_class = registry.settings_class(family.name)
    defaults = settings_class()
    check_settings(
        settings_class, {name: getattr(defaults, name) for name in settings_class.__annotations__}
    )
