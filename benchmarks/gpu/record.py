"""Records a section's rows as JSON lines, and makes a table from them.

An interrupted section resumes after its last row; a section whose table exists is not run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe

SECTION_S = 480.0
"""Seconds after which a section stops between two rows; the same command resumes."""


class Record:
    """Rows of one section, written when they are measured.

    Args:
        folder: Folder of the card's results.
        section: Its name.
        budget_s: Time that this call may take.
    """

    def __init__(self, folder: Path, section: str, *, budget_s: float = SECTION_S) -> None:
        self.folder, self.section = folder, section
        self._rows = folder / f"{section}.jsonl"
        self._until = time.monotonic() + budget_s
        self.cut = False
        """Whether some rows were left for another call."""

    @property
    def table(self) -> Path:
        """The section's table, which exists when the section is complete."""
        return self.folder / f"{self.section}.txt"

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows that were measured so far."""
        if not self._rows.is_file():
            return []
        return [json.loads(line) for line in self._rows.read_text("utf-8").splitlines()]

    def measure(self, key: Mapping[str, Any], run: Callable[[], Mapping[str, Any]]) -> None:
        """Measures one row, unless it exists or the time is up.

        A failed row is recorded as failed, and the other rows are measured.
        """
        if any(key.items() <= row.items() for row in self.rows()):
            return
        if time.monotonic() > self._until:
            self.cut = True
            return
        start = time.monotonic()
        try:
            values = dict(run())
        except Exception as error:  # noqa: BLE001  (out of memory, a missing kernel, a driver)
            values = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        row = {**key, **values, "took_s": round(time.monotonic() - start, 1)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{self.section}: {json.dumps(row)}", flush=True)

    def finish(self, title: str) -> None:
        """Writes the table if all rows were measured."""
        if self.cut:
            print(f"{self.section}: time is up; the same command goes on", flush=True)
            return
        rows = self.rows()
        columns = list(dict.fromkeys(name for row in rows for name in row if name != "took_s"))
        table = Table(title=title)
        for name in columns:
            table.add_column(name)
        for row in rows:
            table.add_row(*(_shown(row.get(name, "")) for name in columns))
        with self.table.open("w", encoding="utf-8") as file:
            console = Console(file=file, width=160, highlight=False)
            console.print(table)
            console.print(f"{card()}, torch {torch.__version__}; {describe()}")
        print(self.table.read_text("utf-8"), flush=True)


def card() -> str:
    """Returns the GPU's name, or a note that sizes are toy sizes."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU, toy sizes"


def device() -> str:
    """Returns the device."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def half() -> torch.dtype:
    """Returns the half precision that the device supports."""
    return torch.float16 if torch.cuda.is_available() else torch.bfloat16


def synchronize() -> None:
    """Waits for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_seconds(run: Callable[[], Any], rounds: int) -> float:
    """Returns the time of the fastest of some rounds, after a warm-up."""
    fastest = float("inf")
    for number in range(rounds + 1):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        if number:
            fastest = min(fastest, time.perf_counter() - start)
    return fastest


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
