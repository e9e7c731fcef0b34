"""Places decoded samples on a file's time line by their time stamps."""

from __future__ import annotations

from dataclasses import dataclass

JITTER_S = 0.1
"""Smaller differences between time stamps and counted samples are rounding or jitter. FFmpeg's
`aresample=async=1` has the same limit (`min_hard_comp`), and players do not interrupt sound for
less. Real recorders jitter by up to 0.06 s."""
OVERLAP_S = 1.0
"""Time stamps that go back by more are a restart (concatenated files)."""


@dataclass(slots=True)
class Timeline:
    """The position of the next samples, counted from the time at which the file starts to play."""

    rate: int
    origin: float
    """Time stamp in seconds of position 0."""
    restarts: bool
    longest_jump: float
    next: int = 0
    resumes: bool = False
    """Whether packets were skipped, so that the next time stamp is used exactly: a decoder may
    return nothing for the first packet that it gets."""
    restarts_now: bool = False
    """Whether the next time stamp is that of the next sample: another link of a chained file was
    opened."""
    _shift: float = 0.0
    """Samples between a time stamp and the place of its samples, confirmed by two time stamps."""
    _last_shift: float | None = None
    """The same, for the last time stamp."""

    def go_to(self, time: float) -> None:
        """Skips everything up to a time stamp that follows the last one without a gap."""
        self.next = round((time - self.origin) * self.rate + self._shift)

    def skip(self, time: float | None, count: int) -> None:
        """Skips `count` samples with a time stamp; the count may be slightly wrong."""
        shift = self._shift
        stamped = None if time is None else (time - self.origin) * self.rate + shift
        self.place(time, count)
        if stamped is not None and abs(self.next - count - stamped) <= JITTER_S * self.rate:
            self.next, self._shift, self._last_shift = round(stamped) + count, shift, shift

    def place(self, time: float | None, count: int) -> int:
        """Returns the position of `count` samples with a time stamp; the next ones follow."""
        position = self.next
        if time is not None:
            if self.restarts_now:
                self.origin, self._shift, self._last_shift = time - position / self.rate, 0.0, None
            stamped = (time - self.origin) * self.rate
            jump = (stamped - self.next) / self.rate
            back = 0.0 if self.restarts else OVERLAP_S
            if self.resumes:
                position = round(stamped + self._shift)
            elif jump < -max(back, JITTER_S) or jump > self.longest_jump:
                self.origin = time - self.next / self.rate
            elif abs(jump) > JITTER_S:
                position = round(stamped)
            shift = position - (time - self.origin) * self.rate
            if self._last_shift is None or abs(shift - self._last_shift) < 0.5:
                self._shift = shift
            self._last_shift = shift
        self.resumes = self.restarts_now = False
        self.next = max(self.next, position + count)
        return position
