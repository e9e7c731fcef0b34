"""Private names of other libraries that this package uses, each with the version it was seen in.

`tests/test_library_internals.py` has a test per name, which fails when a new version moves it.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any


def is_list_of_strings(options: Mapping[str, Any]) -> bool:
    """Whether options of `add_argument` stand for a `list[str]` (jsonargparse 4.53).

    jsonargparse replaces the type of an argument by an action of its own, which keeps the type in
    `_typehint`.
    """
    return getattr(options.get("action"), "_typehint", None) == list[str]


def options_of(parser: ArgumentParser | None) -> Mapping[str, Any]:
    """Returns a parser's actions by option, such as `--out` (Python 3.11's argparse)."""
    return getattr(parser, "_option_string_actions", {})


def flags_of(parser: ArgumentParser | None) -> set[str]:
    """Returns the options whose value is true or false and can be left out (jsonargparse 4.53)."""
    return {
        option
        for option, action in options_of(parser).items()
        if action.nargs == "?" and getattr(action, "_typehint", None) is bool
    }


def subcommands_of(parser: ArgumentParser) -> Mapping[str, ArgumentParser]:
    """Returns the parsers by subcommand (jsonargparse 4.53)."""
    action = getattr(parser, "_subcommands_action", None)
    return action.choices if action else {}
