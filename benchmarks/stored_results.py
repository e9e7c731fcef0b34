"""Stores results of a benchmark's parts in a folder, so that an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def load_or_measure(folder: Path | None, name: str, measure: Callable[[], Any]) -> Any:
    """Returns the stored value of a part, or measures and stores it (as JSON).

    Args:
        folder: Folder of the values; None stores nothing.
        name: Name of the part.
        measure: Function that measures the part.
    """
    file = folder / f"{name}.json" if folder is not None else None
    if file is not None and file.is_file():
        return json.loads(file.read_text("utf-8"))
    value = measure()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(value), encoding="utf-8")
        part.rename(file)
    return value


def print_stored(
    console: Console, folder: Path | None, name: str, build_table: Callable[[], Table]
) -> None:
    """Prints a table, which is built unless its text is stored."""

    def text() -> str:
        with console.capture() as captured:
            console.print(build_table())
        return captured.get()

    console.print(load_or_measure(folder, name, text), end="", markup=False)
