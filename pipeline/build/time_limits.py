"""Time limits after which a worker counts as hung."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.build.records import Task

SECONDS_PER_AUDIO_SECOND = 30.0
"""The slowest embedded expert takes 0.3 s on a core of 2.8 GHz."""
GRACES_TO_START = 5
GRACES_TO_COMMIT = 5
LEAST_S = 60.0
"""Starting a process and loading a teacher takes time, independent of the clips' lengths."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Limits in seconds, all derived from `BuildConfig.hang_seconds`."""

    grace: float

    @property
    def place(self) -> float:
        """Limit from the request of a worker, on a node with room, to the start of its process, in
        seconds."""
        return max(LEAST_S, self.grace)

    @property
    def start(self) -> float:
        """Limit for a process to load its teachers, in seconds."""
        return max(LEAST_S, GRACES_TO_START * self.grace)

    def task(self, task: Task) -> float:
        """Returns the limit for one call of a worker, in seconds."""
        if task.kind == "commit":
            return max(LEAST_S, GRACES_TO_COMMIT * self.grace)
        assert task.block is not None
        return self.grace + SECONDS_PER_AUDIO_SECOND * task.block.seconds
