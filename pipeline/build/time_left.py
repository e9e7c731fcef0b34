"""Estimates how long a teacher still needs, from the audio that it has processed.

Clips are finished in blocks and differ in length, so an estimate from clips per second jumps. This
one divides the audio that is left by the speed over the last minutes. If nothing is finished for
longer than the estimate itself, as with one very long clip at the end, there is no estimate.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 300.0
"""Wall time over which the speed is averaged."""
SAMPLE_S = 1.0
"""Wall time between two samples."""
PATIENCE_S = 60.0
"""An estimate is kept for at least this time without a finished clip."""
RANGE = 3.0
"""The clips that are left count as at most this many times longer or shorter than the average."""


class TimeLeft:
    """The time left of one teacher.

    Args:
        clips: Number of clips to process.
        mean_seconds: Mean length of the corpus's clips; None if it is not known.
    """

    def __init__(self, clips: int, mean_seconds: float | None) -> None:
        self._total = clips
        self._mean = mean_seconds
        self._clips = 0
        self._finished_at = 0.0
        """Time at which the number of finished clips last changed."""
        self._samples: deque[tuple[float, float]] = deque()
        """(time, audio seconds done by then), oldest first; one may be older than the window."""

    def update(self, now: float, clips: int, seconds: float) -> None:
        """Records the clips and the seconds of audio that are done by now."""
        samples = self._samples
        if clips != self._clips or not samples:
            self._finished_at = now
        self._clips = clips
        if len(samples) > 1 and now - samples[-2][0] < SAMPLE_S:
            samples.pop()
        samples.append((now, seconds))
        while len(samples) > 2 and now - samples[1][0] >= WINDOW_S:
            samples.popleft()

    @property
    def seconds(self) -> float | None:
        """The estimate; None before anything is done, or if nothing was done for long."""
        left = self._total - self._clips
        if left <= 0:
            return 0.0
        if not self._samples:
            return None
        (began, before), (now, done) = self._samples[0], self._samples[-1]
        if done <= before or now <= began:
            return None
        estimate = self._audio_left(left, done) * (now - began) / (done - before)
        return estimate if now - self._finished_at <= max(estimate, PATIENCE_S) else None

    def _audio_left(self, clips: int, done: float) -> float:
        if self._mean is None:
            return clips * done / max(self._clips, 1)
        mean_left = (self._total * self._mean - done) / clips
        return clips * min(max(mean_left, self._mean / RANGE), self._mean * RANGE)
