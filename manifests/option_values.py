"""Checks and completes the values of options after parsing: keys without a value, `~` in paths.

jsonargparse accepts null for a field of any type. A key without a value, `tasks:`, may be a slip,
so it does not silently mean the default.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from typing import Any

from jsonargparse import Namespace

from manifests.errors import UserError


def check_values(values: Namespace, config: type, place: str = "") -> None:
    """Checks that no field of a dataclass is null that cannot be, nor a mapping another value.

    Args:
        values: The parsed values; those of a field that is a dataclass are in a namespace, too.
        config: The dataclass.
        place: Its place in the configuration, such as `data.`.

    Raises:
        UserError: a field is null, or no mapping.
    """
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        name, hint, value = f"{place}{field.name}", hints[field.name], values.get(field.name)
        if value is None and not _can_be_null(hint):
            raise UserError(describe_no_value(name))
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, Namespace):
                raise UserError(f"{name}: expected a mapping, found {value!r}")
            check_values(value, hint, f"{name}.")


def describe_no_value(name: str) -> str:
    """Describes a key of a YAML file without a value in one line."""
    return f"{name} has no value; give one, or leave the line out for the default"


def _can_be_null(hint: Any) -> bool:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return hint is Any or (is_union and type(None) in typing.get_args(hint))


def expand_home(value: Any) -> Any:
    """Replaces `~/` at the start of a text, or of texts in a list, by the user's home.

    A shell does it for `--out ~/run`, but neither for `--out=~/run` nor in a file. Mappings stay as
    they are: the settings of a teacher are part of its version, and teachers expand paths
    themselves.
    """
    if isinstance(value, str):
        return os.path.expanduser(value) if value.startswith("~/") else value
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    if isinstance(value, Namespace):
        return Namespace({key: expand_home(item) for key, item in vars(value).items()})
    return value
