"""Makes one pass over a corpus and keeps a few numbers for each clip and each example of a task.

No Python objects are kept per clip. Arrays are allocated once for the whole corpus or in large
blocks, because small allocations between temporary strings would fragment the heap.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import audio
from manifests.cache.clip_index import clip_keys
from manifests.clips import Clip, from_table, has_value, likely_durations
from student.config import DataConfig, TaskConfig
from student.data.coverage import SKIPPED, SkippedClips
from student.data.examples import find_answer, fraction, times_shown
from student.data.held_out import GROUP
from student.data.prompts import MIN_SECONDS, ROUNDING_S
from student.distill.streams import Stream, distinct_teachers, find_unreadable

# Legend: C clips of the corpus, N clips of one table, U usable clips.

TASK_EXAMPLE = np.dtype([("clip", "<i4"), ("repeat", "<i2"), ("letters", "<i4")])
"""An example of a task: row of its usable clip, repeat, and letters of its answer."""
BLOCK_ROWS = 1 << 17
"""Number of rows by which a growing array is extended."""
PENDING_ANSWERS = 1 << 16
"""Number of answers of a task that are collected before duplicates are removed."""
DECODERS = 8
"""Number of threads that measure clips whose length neither corpus nor cache has."""


class GrowingArray:
    """An array that grows in blocks."""

    def __init__(self, dtype: np.dtype | type) -> None:
        self._dtype = dtype
        self._blocks: list[np.ndarray] = []
        self._last = np.empty(0, dtype)
        self._used = 0

    def __len__(self) -> int:
        return sum(map(len, self._blocks)) + self._used

    def extend(self, rows: np.ndarray) -> None:
        """Adds rows at the end."""
        while len(rows):
            if self._used == len(self._last):
                self._close()
                self._last = np.empty(max(BLOCK_ROWS, len(rows)), self._dtype)
            count = min(len(rows), len(self._last) - self._used)
            self._last[self._used : self._used + count] = rows[:count]
            self._used += count
            rows = rows[count:]

    def blocks(self) -> list[np.ndarray]:
        """Returns all rows in order, in blocks."""
        return [*self._blocks, self._last[: self._used]]

    def whole(self) -> np.ndarray:
        """Returns all rows as one array."""
        return np.concatenate(self.blocks())

    def _close(self) -> None:
        if self._used:
            self._blocks.append(self._last)
        self._used = 0


class DistinctAnswers:
    """The distinct answers of a task."""

    def __init__(self) -> None:
        self._distinct: pa.Array = pa.array([], pa.large_string())
        self._pending: list[str] = []

    def add(self, answer: str) -> None:
        """Adds an answer."""
        self._pending.append(answer)
        if len(self._pending) >= PENDING_ANSWERS:
            self._merge()

    def sorted(self) -> pa.Array:
        """Returns all answers, sorted by code points (the order of UTF-8)."""
        self._merge()
        order = pc.sort_indices(self._distinct)  # type: ignore[attr-defined]
        return self._distinct.take(order)

    def _merge(self) -> None:
        pending = pa.array(self._pending, pa.large_string())
        self._distinct = pc.unique(  # type: ignore[attr-defined]
            pa.chunked_array([self._distinct, pending])
        )
        self._pending = []


class TaskExamples:
    """Collects the examples of one task."""

    def __init__(self) -> None:
        self.rows = GrowingArray(TASK_EXAMPLE)
        self.num_answered = 0
        """Number of clips with an answer, before sampling by the task's weight."""
        self.answers = DistinctAnswers()
        """Only for tasks with choices."""

    def add(
        self, task: TaskConfig, number: int, texts: Sequence, labels: Sequence, places: Sequence
    ) -> None:
        """Creates the task's examples of some clips.

        Args:
            task: The task.
            number: Its position in the recipe.
            texts: Texts of the clips.
            labels: Labels of the clips.
            places: (clip id, row among the usable clips of the corpus) of each.
        """
        places_found: list[tuple[int, int, int]] = []
        letter = len("(A) ") if task.choices else 0
        for text, own, (clip_id, row) in zip(texts, labels, places, strict=True):
            answer = find_answer(text, own, task)
            if answer is None:
                continue
            self.num_answered += 1
            if task.choices:
                self.answers.add(answer)
            for repeat in range(times_shown(task.weight, number, clip_id)):
                places_found.append((row, repeat, len(answer) + letter))
        self.rows.extend(np.array(places_found, TASK_EXAMPLE))


class CorpusPass:
    """Collects numbers of the clips of a corpus, table by table.

    Args:
        num_clips: Number of clips in the corpus.
        streams: The streams, which have durations.
        data: The recipe's data section.
        longest_s: Maximum duration of usable clips in seconds.
    """

    def __init__(
        self, num_clips: int, streams: Mapping[str, Stream], data: DataConfig, longest_s: float
    ) -> None:
        self._streams = streams
        self._data = data
        self._longest_s = longest_s
        self._unreadable = find_unreadable(streams)
        self.has_reasons = len(self._unreadable) > 0
        """Whether the cache states why clips cannot be read."""
        self._num_clips = 0
        self.num_usable = 0
        self.skipped = {reason: SkippedClips() for reason in SKIPPED}
        """Reason -> the clips that are not used."""
        self.tasks = [TaskExamples() for _ in data.tasks]
        self.fields: Counter[str] = Counter()
        """`text` or `labels.KEY` -> number of usable clips that have it."""
        self.key_C = np.empty(num_clips, "<u8")
        self.seconds_C = np.empty(num_clips, np.float32)
        self.row_C = np.empty(num_clips, np.int32)
        """Row among the usable clips; -1 for clips that cannot be used."""
        self.draw_C = np.empty(num_clips)
        self.file_C = np.empty(num_clips, np.int64)
        self.group_C: np.ndarray | None = None
        """A number for each `group` label, negative for clips without one; None if none has one."""
        self.hours = 0.0

    def add(self, table: pa.Table) -> np.ndarray:
        """Adds one shard's clips, and returns which of them can be used."""
        ids = table["clip_id"].to_pylist()
        texts = table["text"].to_pylist()
        labels = [json.loads(text) for text in table["labels"].to_pylist()]
        here = slice(self._num_clips, self._num_clips + len(ids))
        self.key_C[here] = key_N = clip_keys(ids)
        unreadable_N = np.isin(key_N, self._unreadable)
        seconds_N = likely_durations(table).to_numpy(zero_copy_only=False).astype(np.float64)
        unknown_N = np.isnan(seconds_N) & ~unreadable_N
        if unknown_N.any():
            seconds_N = self._measured(table, key_N, seconds_N, unknown_N)
        seconds_N = np.where(unreadable_N, np.nan, seconds_N)
        longest_s = self._longest_s + ROUNDING_S
        usable_N = (seconds_N >= MIN_SECONDS) & (seconds_N <= longest_s)
        is_long_N = seconds_N > self._data.max_duration + ROUNDING_S
        self.skipped["unreadable"].add(ids, np.isnan(seconds_N))
        self.skipped["short"].add(ids, seconds_N < MIN_SECONDS)
        self.skipped["long"].add(ids, is_long_N)
        self.skipped["window"].add(ids, (seconds_N > longest_s) & ~is_long_N)
        self.hours += float(seconds_N[usable_N].sum()) / 3600
        self.seconds_C[here] = seconds_N
        self.row_C[here] = np.where(usable_N, self.num_usable + np.cumsum(usable_N) - 1, -1)
        self.draw_C[here] = [fraction("validation", clip_id) for clip_id in ids]
        self.file_C[here] = [hash(uri) for uri in table["uri"].to_pylist()]
        self._add_groups(here, labels)
        rows = np.flatnonzero(usable_N).tolist()
        texts, labels = [texts[row] for row in rows], [labels[row] for row in rows]
        self.fields["text"] += sum(map(has_value, texts))
        self.fields.update(
            f"labels.{key}" for own in labels for key, value in own.items() if has_value(value)
        )
        places = [(ids[row], self.num_usable + place) for place, row in enumerate(rows)]
        for number, (task, places_found) in enumerate(
            zip(self._data.tasks, self.tasks, strict=True)
        ):
            places_found.add(task, number, texts, labels, places)
        self.num_usable += len(rows)
        self._num_clips += len(ids)
        return usable_N

    def _add_groups(self, here: slice, labels: Sequence[Mapping[str, Any]]) -> None:
        names = [own.get(GROUP) for own in labels]
        if self.group_C is None and any(map(has_value, names)):
            self.group_C = np.full(len(self.key_C), -1)
        if self.group_C is not None:
            self.group_C[here] = [_group(name) for name in names]

    def _measured(
        self, table: pa.Table, key_N: np.ndarray, seconds_N: np.ndarray, unknown_N: np.ndarray
    ) -> np.ndarray:
        """Adds missing lengths from the cache or else from the audio; NaN if unreadable."""
        seconds_N = seconds_N.copy()
        for teacher in distinct_teachers(self._streams):
            unknown = np.flatnonzero(np.isnan(seconds_N) & unknown_N)
            if len(unknown):
                seconds_N[unknown] = teacher.durations(key_N[unknown])
        unknown = np.flatnonzero(np.isnan(seconds_N) & unknown_N)
        if len(unknown):
            clips = from_table(table.take(pa.array(unknown)))
            with ThreadPoolExecutor(DECODERS) as threads:
                seconds_N[unknown] = list(threads.map(_decoded_seconds, clips))
        return seconds_N


def _group(name: Any) -> int:
    return hash(str(name)) & (2**63 - 1) if has_value(name) else -1


def _decoded_seconds(clip: Clip) -> float:
    try:
        return audio.decode(clip).seconds
    except audio.AudioError:
        return float("nan")
