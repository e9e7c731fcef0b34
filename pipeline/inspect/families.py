"""The families of experts as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The output of `coat-cache teachers` as a table."""
    shown = Table(title="Families of experts")
    shown.add_column("family", no_wrap=True)
    for heading in ("expert", "streams: width @ Hz", "licence"):
        shown.add_column(heading, overflow="fold")
    shown.add_column("GB", justify="right", no_wrap=True)
    shown.add_column("runs here", justify="center")
    for row in rows:
        runs = "yes" if row["spec"] else "no"
        memory = f"{row['memory_gb']:.1f}"
        shown.add_row(row["name"], row["expert"], row["streams"], row["license"], memory, runs)
    return shown
