"""Stops a build in which most clips fail, such as with a wrong mount or a broken expert.

Decoding and each teacher have separate rates over the last clips that they processed.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

from manifests.cache.shards import Failure
from manifests.errors import UserError

JUDGED_FROM = 100
"""Clips that a stage must process before its failure rate is checked."""
WINDOW = 2000
"""Number of recent clips from which the failure rate is computed."""
DEVIATIONS = 3.0
"""Tolerance above the limit for random variation, in standard deviations."""


class FailureRate:
    """Computes the failure rate of recent clips by stage.

    Args:
        limit: Largest share that is acceptable; None or 1 accepts every share.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = 1.0 if limit is None else limit
        self._windows: dict[str, _Window] = {}

    @property
    def stops(self) -> bool:
        """Whether there is a limit at all."""
        return self._limit < 1.0

    def add(self, stage: str, clips: int, failures: Sequence[Failure]) -> None:
        """Adds clips that a stage has processed.

        Args:
            stage: `decode`, or the name of a teacher.
            clips: Number of clips, including failed ones.
            failures: The failures of these clips.

        Raises:
            UserError: too many have failed; the message lists the most frequent reasons.
        """
        window = self._windows.setdefault(stage, _Window())
        window.add(clips, failures)
        if not failures or window.clips < JUDGED_FROM or not self.stops:
            return
        chance = DEVIATIONS * math.sqrt(window.clips * self._limit * (1 - self._limit))
        if window.failed <= window.clips * self._limit + chance:
            return
        worst = ", ".join(f"{reason} ({n})" for reason, n in window.reasons.most_common(3))
        where = "decoding" if stage == "decode" else f"teacher {stage}"
        raise UserError(
            f"{window.failed / window.clips:.0%} of the last {window.clips} clips have failed in "
            f"{where}, the limit is {self._limit:.0%} (max_failure_rate); most often {worst}; the "
            f"last one: {failures[-1].clip_id}: {failures[-1].message}; if they are as they should "
            "be, pass --max-failure-rate 1"
        )


class _Window:
    def __init__(self) -> None:
        self.clips = self.failed = 0
        self.reasons: Counter[str] = Counter()
        self._parts: deque[tuple[int, Counter[str]]] = deque()

    def add(self, clips: int, failures: Sequence[Failure]) -> None:
        reasons = Counter(f"{failure.stage}: {failure.error}" for failure in failures)
        self._parts.append((clips, reasons))
        self.clips += clips
        self.failed += len(failures)
        self.reasons += reasons
        while self.clips - self._parts[0][0] >= WINDOW:
            old, old_reasons = self._parts.popleft()
            self.clips -= old
            self.failed -= old_reasons.total()
            self.reasons -= old_reasons
