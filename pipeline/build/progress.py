"""Shows the progress of a build: one live line per teacher, or regular log lines without a
terminal."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from manifests.cache.shards import Marker
from manifests.progress import LogPace, describe_time
from manifests.wording import number_of
from pipeline.build.time_left import TimeLeft

log = logging.getLogger(__name__)


class ProgressListener(Protocol):
    """Receives the steps of a build from the scheduler."""

    def workers(self, count: int, loading_seconds: float) -> None:
        """Called when a worker has loaded its teachers, or has died (0 s)."""

    def clips_done(self, teacher: str, clips: int, seconds: float, failures: int) -> None:
        """Called when a teacher has processed clips; negative counts remove a lost shard."""

    def clips_decoded(self, warnings: Mapping[str, int]) -> None:
        """Called when a block is decoded; warnings map types to clips."""

    def committed(self, teacher: str, marker: Marker) -> None:
        """Called when a shard is committed."""

    def tick(self) -> None:
        """Called at least once a second."""


class BuildProgress:
    """Clips, audio hours, speed, failures and time left, per teacher: a `ProgressListener`."""

    def __init__(
        self, totals: Mapping[str, int], console: Console, *, mean_seconds: float | None = None
    ) -> None:
        """
        Args:
            totals: Maps teachers to the number of clips to process.
            console: Progress is shown here.
            mean_seconds: Mean length of the corpus's clips; None if it is not known.
        """
        self.began = time.monotonic()
        self.started_at: float | None = None
        self.clips = dict.fromkeys(totals, 0)
        self.seconds = dict.fromkeys(totals, 0.0)
        self.failures = dict.fromkeys(totals, 0)
        self.cache_bytes = dict.fromkeys(totals, 0)
        self.extract_seconds = dict.fromkeys(totals, 0.0)
        self.warnings: Counter[str] = Counter()
        """Kind of audio warning -> number of clips."""
        self._console = console
        self._totals = dict(totals)
        self._pace = LogPace()
        self._left = {name: TimeLeft(clips, mean_seconds) for name, clips in totals.items()}
        self._bars = Progress(
            TextColumn("{task.description:>12}"),
            BarColumn(bar_width=8),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[detail]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            refresh_per_second=4,
            disable=not console.is_terminal,
        )
        self._rows: dict[str, TaskID] = {
            name: self._bars.add_task(name, total=total, detail="loading models", left="")
            for name, total in totals.items()
        }

    def __enter__(self) -> BuildProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    @property
    def startup_seconds(self) -> float:
        """Seconds from the start until the first worker was ready."""
        return (self.started_at or time.monotonic()) - self.began

    @property
    def working_seconds(self) -> float:
        """Seconds since the first worker was ready."""
        return time.monotonic() - (self.started_at or time.monotonic())

    def workers(self, count: int, loading_seconds: float) -> None:
        """See `ProgressListener`."""
        if self.started_at is None:
            self.started_at = time.monotonic()
        log.info("%s ready (models loaded in %.1f s)", number_of(count, "worker"), loading_seconds)

    def clips_done(self, teacher: str, clips: int, seconds: float, failures: int) -> None:
        """See `ProgressListener`."""
        self.clips[teacher] += clips
        self.seconds[teacher] += seconds
        self.failures[teacher] += failures

    def clips_decoded(self, warnings: Mapping[str, int]) -> None:
        """See `ProgressListener`."""
        self.warnings.update(warnings)

    def committed(self, teacher: str, marker: Marker) -> None:
        """See `ProgressListener`."""
        self.cache_bytes[teacher] += marker.data_bytes
        self.extract_seconds[teacher] += marker.extract_seconds

    def tick(self) -> None:
        """See `ProgressListener`."""
        now = time.monotonic()
        if self.started_at is not None:
            for name, left in self._left.items():
                left.update(now, self.clips[name], self.seconds[name])
        for name, row in self._rows.items():
            left = self._left[name].seconds
            self._bars.update(
                row,
                completed=self.clips[name],
                detail=self._detail(name),
                left="" if left is None else describe_time(left, short=True),
            )
        if not self._console.is_terminal and self._pace.is_due():
            parts = [f"{name} {self.clips[name]}/{self._totals[name]}" for name in self._totals]
            self._console.print(
                f"{now - self.began:6.0f} s  clips: {', '.join(parts)}{self._time_left()}"
            )

    def _time_left(self) -> str:
        """The time that the slowest teacher still needs; empty if it is unknown for one."""
        estimates = {name: estimate.seconds for name, estimate in self._left.items()}
        if any(self.clips[name] and seconds is None for name, seconds in estimates.items()):
            return "; time left unknown"
        known = [seconds for seconds in estimates.values() if seconds is not None]
        if not any(known) or len(known) < len(estimates):
            return ""
        return f"; about {describe_time(max(known))} left"

    def _detail(self, name: str) -> str:
        if not self.clips[name] and not self.failures[name]:
            return f"loading models, {time.monotonic() - self.began:.0f} s"
        speed = self.seconds[name] / max(self.working_seconds, 1e-9)
        failed = f", {self.failures[name]} failed" if self.failures[name] else ""
        return f"{self.seconds[name] / 3600:.2f} h, {speed:.1f} x real time{failed}"
