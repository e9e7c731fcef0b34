"""Measures the processor time of this process and all its descendants over a period.

The descendants of a build are Ray's processes and the workers, which end with the build. A thread
therefore samples their times while they run, and the time of an ended process keeps its last value.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

import numpy as np
import psutil

EVERY_S = 0.1


class ProcessorTime:
    """Samples while the context is open."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        self._by_process: dict[tuple[int, float], float] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="processor-time", daemon=True)

    def __enter__(self) -> ProcessorTime:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def between(self, start: float, end: float) -> float:
        """Returns processor seconds, user and system, between two times (`time.time`)."""
        times, totals = zip(*self._samples, strict=True)
        before, after = np.interp([start, end], times, totals)
        return float(after - before)

    def _run(self) -> None:
        me = psutil.Process()
        while not self._is_over.wait(EVERY_S):
            for process in [me, *me.children(recursive=True)]:
                try:
                    used = process.cpu_times()
                    key = process.pid, process.create_time()
                except psutil.Error:
                    continue
                self._by_process[key] = used.user + used.system
            self._samples.append((time.time(), sum(self._by_process.values())))
