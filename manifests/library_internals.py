"""Private names of other libraries that this package uses, each with the version it was seen in.

`tests/test_library_internals.py` has a test per name, which fails when a new version moves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_list_of_strings(options: Mapping[str, Any]) -> bool:
    """Whether options of `add_argument` stand for a `list[str]` (jsonargparse 4.53).

    jsonargparse replaces the type of an argument by an action of its own, which keeps the type in
    `_typehint`.
    """
    return getattr(options.get("action"), "_typehint", None) == list[str]
