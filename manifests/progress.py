"""Shows the progress of long operations: a bar on a terminal, lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from manifests.console import messages

Item = TypeVar("Item")

FIRST_LINES_S = (10.0, 30.0, 60.0)
"""Seconds after the start at which a log file gets its first lines of progress."""
SECONDS_BETWEEN_LINES = 60.0
SPEED_SECONDS = 3600.0
"""Past time from which a bar estimates the time left. The default of rich, 30 s, shows no estimate
if a step takes longer."""


class LogPace:
    """Tells when the next line of progress is due in a log file: three times in the first minute,
    then once a minute."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._due_at = self._begun + FIRST_LINES_S[0]

    def is_due(self) -> bool:
        """Whether to write a line now; if so, the next one is due later."""
        now = time.monotonic()
        if now < self._due_at:
            return False
        first = (self._begun + seconds for seconds in FIRST_LINES_S)
        self._due_at = next((due for due in first if due > now), now + SECONDS_BETWEEN_LINES)
        return True


class Advance(Protocol):
    """Reports that `count` more units are done."""

    def __call__(self, count: int = 1) -> None: ...


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Advance]:
    """Shows progress: a bar if stderr is a terminal, otherwise lines (`LogPace`).

    Args:
        description: Text before the bar.
        total: Number of units; 0 if it is unknown.
        unit: Name of the units, such as `questions`.
    """
    if messages.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(compact=True),
        )
        with Progress(
            *columns, console=messages, transient=True, speed_estimate_period=SPEED_SECONDS
        ) as bar:
            task = bar.add_task(description, total=total or None)
            yield lambda count=1: bar.advance(task, count)
        return
    lines = _Lines(description, total, unit)
    yield lines.advance


def watched(items: Iterable[Item], description: str, *, is_shown: bool = True) -> Iterator[Item]:
    """Yields the items, and shows how many of them are done.

    Args:
        items: Items with a length, such as a DataLoader.
        description: Text before the bar.
        is_shown: Whether to show it.
    """
    if not is_shown or not isinstance(items, Sized):
        yield from items
        return
    with progress(description, len(items), "batches") as advance:
        for item in items:
            yield item
            advance()


def counted(
    items: Iterable[Item], description: str, total: int, unit: str, *, is_shown: bool = True
) -> Iterator[Item]:
    """Yields items without a length, and shows how many of at most `total` are done.

    Args:
        items: Items, such as those of a generator.
        description: Text before the bar.
        total: Expected number of items; 0 if it is unknown.
        unit: Name of the items, such as `rows`.
        is_shown: Whether to show it.
    """
    if not is_shown:
        yield from items
        return
    with progress(description, total, unit) as advance:
        for item in items:
            advance()
            yield item


class _Lines:
    def __init__(self, description: str, total: int, unit: str) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done = 0
        self._start, self._pace = time.monotonic(), LogPace()

    def advance(self, count: int = 1) -> None:
        self._done += count
        if 0 < self._total <= self._done or not self._pace.is_due():
            return
        if not self._total:
            messages.print(f"{self._description}: {self._done:,} {self._unit}", markup=False)
            return
        left = (time.monotonic() - self._start) / self._done * (self._total - self._done)
        messages.print(
            f"{self._description}: {self._done:,} of {self._total:,} {self._unit}, "
            f"about {describe_time(left)} left",
            markup=False,
        )


def describe_time(seconds: float, *, short: bool = False) -> str:
    """A duration in hours and minutes, at least one minute: `2 h 5 min`, or `2:05 h`."""
    minutes = max(round(seconds / 60), 1)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours}:{rest:02d} h" if short else f"{hours} h {rest} min"
