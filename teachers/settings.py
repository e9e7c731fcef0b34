"""Checks the values of a teacher's settings against the types of its settings dataclass.

A wrong value would otherwise fail every clip, and `0` and `false` would be two versions. Values are
never converted, because they are part of a version's fingerprint.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from manifests.errors import UserError


@dataclass(frozen=True, slots=True)
class Between:
    """Limits of a number, for `typing.Annotated`."""

    least: float
    most: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        is_open = self.most == math.inf
        return f"at least {self.least:g}" if is_open else f"from {self.least:g} to {self.most:g}"


Share = Annotated[float, Between(0, 1)]
Count = Annotated[int, Between(1)]
CountOrZero = Annotated[int, Between(0)]
NonNegative = Annotated[float, Between(0)]

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def check_settings(settings_class: type, values: Mapping[str, Any]) -> None:
    """Checks values against the annotations of a dataclass; unknown kinds of types are accepted.

    Args:
        settings_class: The dataclass.
        values: Field -> value. A list counts as a tuple.

    Raises:
        UserError: a value is of another type, or out of its range.
    """
    try:
        hints = get_type_hints(settings_class, include_extras=True)
    except Exception:  # noqa: BLE001  (names in a user's annotations need not be importable)
        return
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            raise UserError(f"{name}: expected {_describe(hints[name])}, found {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [limit for limit in arguments[1:] if isinstance(limit, Between)]
        return _fits(value, arguments[0]) and all(value in limit for limit in limits)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    if origin is tuple and arguments[1:] == (...,):
        return isinstance(value, list | tuple) and all(_fits(each, arguments[0]) for each in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint in (bool, int, str):
        return type(value) is hint
    return hint is not type(None) or value is None


def _describe(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [f" {limit}" for limit in arguments[1:] if isinstance(limit, Between)]
        return _describe(arguments[0]) + "".join(limits)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_describe, arguments))
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        return f"a list of {_describe(arguments[0]).removeprefix('a ')}s"
    return "null" if hint is type(None) else WORDS.get(hint, str(hint))
