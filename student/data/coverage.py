"""Counts the usable clips of a corpus, and those for which each stream has targets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from manifests.errors import UserError
from student.config import TaskConfig
from student.data.prompts import MIN_SECONDS
from student.distill.streams import Stream

# Legend: U usable clips.

KEYS_AT_ONCE = 1 << 16
"""Number of clips that are looked up together; a look-up needs some hundred bytes per clip."""

NAMED = 5
"""Number of skipped clips whose ids are logged."""

logger = logging.getLogger(__name__)


class SkippedClips:
    """The clips that are not used for one reason: their number, and the first few ids."""

    def __init__(self) -> None:
        self.num = 0
        self.first: list[str] = []

    def add(self, ids: Sequence[str], is_skipped_N: np.ndarray) -> None:
        """Adds the clips of a table that are skipped."""
        rows = np.flatnonzero(is_skipped_N)
        self.num += len(rows)
        self.first += [ids[int(row)] for row in rows[: NAMED - len(self.first)]]

    def __str__(self) -> str:
        more = f" and {self.num - len(self.first):,} more" if self.num > len(self.first) else ""
        return ", ".join(self.first) + more


SKIPPED = ("unreadable", "short", "long", "window")
"""Reasons for which a clip is not used."""


def report_skipped(
    num_clips: int,
    num_usable: int,
    skipped: Mapping[str, SkippedClips],
    max_duration: float,
    longest_s: float,
    *,
    has_reasons: bool,
) -> None:
    """Logs how many clips are skipped, why, and the first ones.

    Args:
        num_clips: Number of clips in the corpus.
        num_usable: Number of usable clips.
        skipped: Reason (`SKIPPED`) -> the clips. `long` are those beyond `max_duration`, `window`
            those within it but longer than the backbone's window.
        max_duration: The limit in the recipe.
        longest_s: The smaller of `max_duration` and the window.
        has_reasons: Whether the cache has reasons of unreadable clips.

    Raises:
        UserError: no clip is left.
    """
    reasons = {
        "unreadable": "their audio cannot be read"
        + (" (coat-cache failures gives the reasons)" if has_reasons else ""),
        "short": f"shorter than {MIN_SECONDS:g} s",
        "long": f"longer than {max_duration:g} s, data.max_duration",
        "window": f"longer than {longest_s:g} s, the window of the backbone",
    }
    for name, reason in reasons.items():
        if clips := skipped[name].num:
            logger.warning(
                "%d of %d clips are skipped: %s: %s", clips, num_clips, reason, skipped[name]
            )
    if not num_usable:
        raise UserError(
            f"none of the corpus' {num_clips} clips can be used: each is shorter than "
            f"{MIN_SECONDS} s, longer than {longest_s:g} s or not readable; see data.max_duration, "
            "and the window of the backbone"
        )


def count_covered(key_U: np.ndarray, streams: Mapping[str, Stream]) -> dict[str, int]:
    """Logs how many usable clips have targets of each stream, if not all do.

    Raises:
        UserError: a stream has no targets for them.
    """
    count = len(key_U)
    covered: dict[str, int] = {}
    names: dict[int, list[str]] = {}
    for name, stream in streams.items():
        covered[name] = count
        if stream.reader is not None:
            covers = stream.reader.teacher.covers
            blocks = range(0, count, KEYS_AT_ONCE)
            covered[name] = sum(
                int(covers(key_U[first : first + KEYS_AT_ONCE]).sum()) for first in blocks
            )
        if not covered[name]:
            raise UserError(
                f"the cache has stream {name} for none of the corpus' {count} clips (coat-cache "
                "status): it was built from another corpus, or its build has just begun; build it, "
                "or name the streams that are there in `streams`"
            )
        names.setdefault(covered[name], []).append(name)
    for number, stream_names in names.items():
        if number < count:
            logger.warning("%d of %d clips have %s", number, count, ", ".join(stream_names))
    return covered


def check_tasks(
    tasks: Sequence[TaskConfig], num_answered: Sequence[int], fields: Mapping[str, int]
) -> None:
    """Checks that the corpus has answers for each task.

    Args:
        tasks: Tasks of the recipe.
        num_answered: Number of usable clips with an answer, for each task.
        fields: `text` or `labels.KEY` -> number of usable clips that have it.

    Raises:
        UserError: a task has no example.
    """
    known = ", ".join(f"{name} ({count} clips)" for name, count in sorted(fields.items()) if count)
    for task, count in zip(tasks, num_answered, strict=True):
        if not count:
            raise UserError(
                f"data.tasks: {task.questions[0]!r} has no example: no usable clip has "
                f"{' or '.join(task.answer)}, and the fields of the clips are "
                f"{known or 'nothing'}; change its `answer`, or remove the task"
            )
