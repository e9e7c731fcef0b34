"""Stops a build in which most clips fail, such as with a wrong mount or a broken expert, and
reports one in which all of a few clips have failed.

Decoding and each teacher have separate rates over the last clips that they processed.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

from manifests.cache.shards import Failure
from manifests.errors import UserError
from manifests.wording import number_of

JUDGED_FROM = 100
"""Clips that a stage must process before its failure rate is checked."""
JUDGED_AT_END = 10
"""Clips that a stage must process before it is an error that all of them have failed."""
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
        if window.missing == window.clips and not window.has_passed:
            raise no_file_is_there(window.clips, failures[-1].message)
        raise UserError(
            f"{window.failed / window.clips:.0%} of the last {window.clips} clips have failed in "
            f"{_place(stage)}, the limit is {self._limit:.0%} (max_failure_rate); most often "
            f"{window.worst()}; the last one: {failures[-1].clip_id}: {failures[-1].message}; "
            + ("mount the disk of the files on every node, or " if window.missing else "")
            + "if they are as they should be, pass --max-failure-rate 1"
        )

    def check_end(self) -> None:
        """Checks at the end of a build that no stage has failed on all of its clips.

        Raises:
            UserError: a stage has, and there is a limit.
        """
        for stage, window in self._windows.items():
            if self.stops and window.failed == window.clips >= JUDGED_AT_END:
                raise UserError(
                    f"all {number_of(window.clips, 'clip')} have failed in {_place(stage)}: "
                    f"{window.worst()}; "
                    "the failures are recorded (coat-cache failures); correct the cause, then run "
                    "coat-cache retry-failures with the same options"
                )


def no_file_is_there(clips: int, example: str) -> UserError:
    """The error of a build that has found none of its audio files, such as without a mount.

    Args:
        clips: Number of clips whose files were looked for.
        example: The message of one of their failures.
    """
    return UserError(
        f"none of the {clips} audio files that were looked for is there (for example: {example}), "
        "and nothing is recorded about them; if a disk is not mounted, mount it on every node and "
        "run the same command again; if the files are gone for good, build a corpus "
        "without these clips, or pass --max-failure-rate 1"
    )


def _place(stage: str) -> str:
    return "decoding" if stage == "decode" else f"teacher {stage}"


class _Window:
    def __init__(self) -> None:
        self.clips = self.failed = 0
        self.has_passed = False
        """Whether any clip has not failed, also before the window."""
        self.reasons: Counter[str] = Counter()
        self._parts: deque[tuple[int, Counter[str]]] = deque()

    def add(self, clips: int, failures: Sequence[Failure]) -> None:
        reasons = Counter(f"{failure.stage}: {failure.error}" for failure in failures)
        self._parts.append((clips, reasons))
        self.clips += clips
        self.has_passed |= clips > len(failures)
        self.failed += len(failures)
        self.reasons += reasons
        while self.clips - self._parts[0][0] >= WINDOW:
            old, old_reasons = self._parts.popleft()
            self.clips -= old
            self.failed -= old_reasons.total()
            self.reasons -= old_reasons

    @property
    def missing(self) -> int:
        """Number of clips whose file was not there."""
        return self.reasons["decode: missing"]

    def worst(self) -> str:
        """The most frequent reasons, with their counts."""
        return ", ".join(f"{reason} ({n})" for reason, n in self.reasons.most_common(3))
