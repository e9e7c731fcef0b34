"""Stops a build in which most clips fail: a wrong mount or a broken expert is noticed in minutes,
not after a night."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from manifests.cache.shards import Failure
from manifests.errors import UserError

JUDGED_FROM = 100
"""Clips per teacher before the rate means anything."""


class FailureRate:
    """The share of clips that failed so far, over all teachers.

    Args:
        limit: Largest share that is borne.
        num_teachers: Of the build.
    """

    def __init__(self, limit: float, num_teachers: int) -> None:
        self._limit = limit
        self._judged_from = JUDGED_FROM * num_teachers
        self._seen = self._failed = 0
        self._reasons: Counter[str] = Counter()

    def add(self, clips: int, failures: Sequence[Failure]) -> None:
        """Counts clips that are through a teacher.

        Raises:
            UserError: too many have failed; the message names the commonest reasons.
        """
        self._seen += clips
        self._failed += len(failures)
        self._reasons.update(f"{failure.stage}: {failure.error}" for failure in failures)
        rate = self._failed / max(self._seen, 1)
        if failures and self._seen >= self._judged_from and rate > self._limit:
            worst = ", ".join(f"{reason} ({n})" for reason, n in self._reasons.most_common(3))
            raise UserError(
                f"{rate:.0%} of the clips so far have failed, the limit is {self._limit:.0%} "
                f"(max_failure_rate); most often {worst}; the last one: {failures[-1].clip_id}: "
                f"{failures[-1].message}"
            )

    def take_back(self, clips: int, failed: int) -> None:
        """Forgets clips whose shard starts over."""
        self._seen -= clips
        self._failed -= failed
