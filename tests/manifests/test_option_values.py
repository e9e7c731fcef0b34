"""Tests that keys without a value are refused, and that `~` is the home folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from jsonargparse import Namespace

from manifests.errors import UserError
from manifests.option_values import check_values, expand_home


@dataclass
class Inner:
    size: int = 1


@dataclass
class Options:
    name: str = "a"
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)


def values(**changes: object) -> Namespace:
    return Namespace(**({"name": "a", "limit": None, "inner": Namespace(size=1)} | changes))


def test_null_is_accepted_only_where_it_has_a_meaning() -> None:
    check_values(values(), Options)
    with pytest.raises(UserError, match="name has no value"):
        check_values(values(name=None), Options)
    with pytest.raises(UserError, match=r"inner\.size has no value"):
        check_values(values(inner=Namespace(size=None)), Options)
    with pytest.raises(UserError, match="inner: expected a mapping, found 3"):
        check_values(values(inner=3), Options)


def test_home_is_expanded_at_the_start_of_texts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = Namespace(cache="~/c", more=["~/d", 3], settings={"model": "~/m"}, text="a ~/b")
    expanded = expand_home(given)
    assert expanded.cache == "/home/me/c"
    assert expanded.more == ["/home/me/d", 3]
    assert expanded.settings == {"model": "~/m"}  # part of a teacher's version
    assert expanded.text == "a ~/b"
    assert Path(given.cache).parts[0] == "~"
