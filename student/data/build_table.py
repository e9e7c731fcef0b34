"""Makes a run's folder of examples in one pass over the corpus.

Per clip this takes some tens of microseconds and, until the folder is written, a few dozen bytes:
ten million clips are minutes and some hundred megabytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.progress import track

from manifests import audio
from manifests.cache.clip_index import clip_keys
from manifests.clips import SCHEMA, from_table, likely_durations, to_table
from manifests.console import as_fields, messages
from manifests.corpus.corpus import Corpus
from student.config import DataConfig
from student.data.arrow_files import ArrowWriter
from student.data.coverage import check_tasks, count_covered, tell_left_out
from student.data.example_table import CLIP_INDEX, EXAMPLE, ExampleTable, Summary
from student.data.examples import (
    answer_of,
    check_answers,
    fraction,
    not_a_chat,
    read_chats,
    times_shown,
)
from student.data.held_out import GROUP, LEFT_OUT, mixed, recordings, split
from student.data.prompts import MIN_SECONDS
from student.distill.streams import Stream

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the folder's format and of the rules by which examples are drawn."""
CHAT_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("line", pa.int64()),
        ("clip_ids", pa.list_(pa.string())),
        ("messages", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
    ]
)
DECODERS = 8
"""Threads that measure clips of which neither corpus nor cache knows the length."""


def open_examples(
    folder: Path,
    corpus: Corpus,
    streams: Mapping[str, Stream],
    data: DataConfig,
    *,
    window_s: float = math.inf,
    begun: bool = False,
) -> ExampleTable:
    """The examples of a run, made if the folder has not those of this corpus, cache and recipe.

    Args:
        folder: RUN/examples.
        corpus: The clips.
        streams: What their durations and targets are looked up in.
        data: Of the recipe.
        window_s: Longest audio in seconds that the backbone takes; longer clips are left out, as
            targets would cover what it does not hear.
        begun: Whether the run has begun. If it did so with a version that had no such folder, its
            examples are split as that version did, by the id of a conversation's last clip alone;
            and if it did so with one that did not look at the window, clips beyond it stay.

    Raises:
        UserError: no clip can be used, a stream has targets for none of them, a task offers
            choices where there are none, a task has no example, or a line of a file is no
            conversation.
    """
    summary = Summary.read(folder)
    by_last_clip = begun if summary is None else summary.by_last_clip
    keeps_longer = begun and (summary is None or summary.longest_s is None)
    longest_s = data.max_duration if keeps_longer else min(data.max_duration, window_s)
    made_from = _made_from(corpus, streams, data, longest_s, by_last_clip)
    if summary is None or summary.made_from != made_from:
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        builder = _Builder(part, streams, data, longest_s)
        builder.build(corpus, made_from, by_last_clip, keeps_longer=keeps_longer, begun=begun)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    return ExampleTable(folder, data.tasks)


def _made_from(
    corpus: Corpus,
    streams: Mapping[str, Stream],
    data: DataConfig,
    longest_s: float,
    by_last_clip: bool,
) -> str:
    caches = {
        name: stream.reader.teacher.digest
        for name, stream in streams.items()
        if stream.reader is not None
    }
    chats = {path: _content(path) for path in data.chats}
    kept = {name: as_fields(data)[name] for name in ("tasks", "chats", "validation")}
    known = [VERSION, corpus.digest, caches, chats, kept, longest_s, by_last_clip]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _content(path: str) -> str:
    if not Path(path).is_file():
        return ""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class _TaskRows:
    """The examples of one task, as they are met."""

    clips: list[np.ndarray] = field(default_factory=list)
    repeats: list[np.ndarray] = field(default_factory=list)
    letters: list[np.ndarray] = field(default_factory=list)
    num_answered: int = 0
    """Clips that have an answer, before the task's weight chooses among them."""
    answers: set[str] = field(default_factory=set)
    """Kept for tasks with choices alone."""


class _Builder:
    """Gathers what one pass over a corpus gives."""

    def __init__(
        self, folder: Path, streams: Mapping[str, Stream], data: DataConfig, longest_s: float
    ) -> None:
        self._folder = folder
        self._streams = streams
        self._data = data
        self._longest_s = longest_s
        self._num_beyond_window = 0
        self._tasks = [_TaskRows() for _ in data.tasks]
        self._usable: list[np.ndarray] = []
        self._seconds: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._draws: list[np.ndarray] = []
        self._files: list[np.ndarray] = []
        self._groups: list[np.ndarray] = []
        self._num_usable = 0
        self._group_numbers: dict[str, int] = {}
        self._fields: Counter[str] = Counter()

    def build(
        self, corpus: Corpus, made_from: str, by_last_clip: bool, *, keeps_longer: bool, begun: bool
    ) -> None:
        """Writes the folder."""
        with ArrowWriter(self._folder / "clips.arrow", SCHEMA) as clips:
            tables = track(
                corpus.tables(), "examples", corpus.num_shards, console=messages, transient=True,
                disable=corpus.num_shards < 64,
            )  # fmt: skip
            for table in tables:
                if table.schema.names != SCHEMA.names:  # a part of an older format
                    table = to_table(from_table(table))
                usable = self._add_clips(table)
                clips.write(table.filter(pa.array(usable)))
        usable_C = np.concatenate(self._usable)
        seconds_C = np.concatenate(self._seconds)
        key_C = np.concatenate(self._keys)
        tell_left_out(
            corpus.num_clips, int(usable_C.sum()), self._num_beyond_window,
            self._data.max_duration, self._longest_s,
        )  # fmt: skip
        if not begun:
            answered = [found.num_answered for found in self._tasks]
            check_tasks(self._data.tasks, answered, self._fields)
        covered = count_covered(key_C[usable_C], self._streams)
        row_C = np.where(usable_C, np.cumsum(usable_C) - 1, -1).astype(np.int32)
        self._write_index(key_C, usable_C, row_C, corpus)

        # Links between examples and clips of the corpus: one for each task's example, several for
        # conversations.
        corpus_row = np.flatnonzero(usable_C)
        examples = self._task_examples(key_C[corpus_row], seconds_C[corpus_row])
        links = [corpus_row[examples["clip"]]]
        example_of_link = [np.arange(len(examples))]
        chats, chat_links = self._add_chats(key_C, row_C, seconds_C)
        for at, clip_rows in enumerate(chat_links):
            links.append(clip_rows)
            example_of_link.append(np.full(len(clip_rows), len(examples) + at))
        examples = np.concatenate([examples, chats])
        link_L = np.concatenate(links)
        example_L = np.concatenate(example_of_link)
        draw_C = np.concatenate(self._draws)
        if len(examples):
            if by_last_clip:
                link_L, example_L = corpus_row[examples["clip"]], np.arange(len(examples))
                task_E = np.zeros(len(examples), np.int16)
                recording_L = link_L
            else:
                recording_C = recordings(np.concatenate(self._files), np.concatenate(self._groups))
                recording_L, task_E = recording_C[link_L], examples["task"]
            examples["side"] = split(recording_L, example_L, task_E, draw_C, self._data.validation)
        left_out = int((examples["side"] == LEFT_OUT).sum())
        if left_out:
            logger.warning(
                "%d examples are left out: a held-out conversation has one of their clips", left_out
            )
        np.save(self._folder / "examples.npy", examples)
        summary = Summary(
            made_from=made_from,
            clips=int(usable_C.sum()),
            hours=float(seconds_C[usable_C].sum()) / 3600,
            covered=covered,
            by_last_clip=by_last_clip,
            longest_s=None if keeps_longer else self._longest_s,
        )
        (self._folder / "summary.json").write_text(json.dumps(asdict(summary)))

    def _add_clips(self, table: pa.Table) -> np.ndarray:
        """Takes one shard's clips in; which of them can be used."""
        ids = table["clip_id"].to_pylist()
        uris = table["uri"].to_pylist()
        texts = table["text"].to_pylist()
        labels = [json.loads(text) for text in table["labels"].to_pylist()]
        key_N = clip_keys(ids)
        seconds_N = likely_durations(table).to_numpy(zero_copy_only=False).astype(np.float64)
        if np.isnan(seconds_N).any():
            seconds_N = self._measured(table, key_N, seconds_N)
        usable_N = (seconds_N >= MIN_SECONDS) & (seconds_N <= self._longest_s)
        within_N = seconds_N <= self._data.max_duration
        self._num_beyond_window += int((within_N & (seconds_N > self._longest_s)).sum())
        self._keys.append(key_N)
        self._seconds.append(seconds_N)
        self._usable.append(usable_N)
        self._draws.append(np.array([fraction("validation", clip_id) for clip_id in ids]))
        self._files.append(np.array([hash(uri) for uri in uris]))
        self._groups.append(np.array([self._group(each.get(GROUP)) for each in labels]))
        rows = np.flatnonzero(usable_N).tolist()
        self._fields["text"] += sum(texts[row] not in (None, "") for row in rows)
        self._fields.update(f"labels.{key}" for row in rows for key in labels[row])
        for number, (task, found) in enumerate(zip(self._data.tasks, self._tasks, strict=True)):
            clips, repeats, letters = [], [], []
            for place, row in enumerate(rows):
                answer = answer_of(texts[row], labels[row], task)
                if answer is None:
                    continue
                found.num_answered += 1
                if task.choices:
                    found.answers.add(answer)
                for repeat in range(times_shown(task.weight, number, ids[row])):
                    clips.append(self._num_usable + place)
                    repeats.append(repeat)
                    letters.append(len(answer) + (len("(A) ") if task.choices else 0))
            found.clips.append(np.array(clips, np.int32))
            found.repeats.append(np.array(repeats, np.int16))
            found.letters.append(np.array(letters, np.int32))
        self._num_usable += len(rows)
        return usable_N

    def _group(self, label: Any) -> int:
        if label in (None, ""):
            return -1
        return self._group_numbers.setdefault(str(label), len(self._group_numbers))

    def _measured(self, table: pa.Table, key_N: np.ndarray, seconds_N: np.ndarray) -> np.ndarray:
        """Lengths that the corpus lacks: from the cache, else from the audio; NaN if unreadable."""
        seconds_N = seconds_N.copy()
        for stream in self._streams.values():
            unknown = np.flatnonzero(np.isnan(seconds_N))
            if stream.reader is not None and len(unknown):
                seconds_N[unknown] = stream.reader.teacher.durations(key_N[unknown])
        unknown = np.flatnonzero(np.isnan(seconds_N))
        if len(unknown):
            clips = from_table(table.take(pa.array(unknown)))
            with ThreadPoolExecutor(DECODERS) as threads:
                seconds_N[unknown] = list(threads.map(_decoded_seconds, clips))
        return seconds_N

    def _write_index(
        self, key_C: np.ndarray, usable_C: np.ndarray, row_C: np.ndarray, corpus: Corpus
    ) -> None:
        index = np.empty(int(usable_C.sum()), CLIP_INDEX)
        index["key"], index["row"] = key_C[usable_C], row_C[usable_C]
        index.sort(order="key")
        np.save(self._folder / "clip_index.npy", index)
        shard_C = np.repeat(np.arange(corpus.num_shards, dtype=np.int32), corpus.shard_sizes())
        np.save(self._folder / "shards.npy", shard_C[usable_C])

    def _task_examples(self, key_U: np.ndarray, seconds_U: np.ndarray) -> np.ndarray:
        """The examples of all tasks, task by task, each in the order of the clips."""
        parts = []
        for number, (task, found) in enumerate(zip(self._data.tasks, self._tasks, strict=True)):
            part = np.zeros(sum(map(len, found.clips)), EXAMPLE)
            part["clip"] = np.concatenate(found.clips)
            part["repeat"] = np.concatenate(found.repeats)
            part["letters"] = np.concatenate(found.letters)
            part["task"], part["chat"] = number, -1
            part["seconds"] = seconds_U[part["clip"]]
            part["key"] = mixed(key_U[part["clip"]], number, part["repeat"])
            parts.append(part)
            if task.choices:
                answers = sorted(found.answers)
                check_answers(task, answers)
                _write_answers(self._folder / f"answers-{number}.arrow", answers)
        return np.concatenate([np.zeros(0, EXAMPLE), *parts])

    def _add_chats(
        self, key_C: np.ndarray, row_C: np.ndarray, seconds_C: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """The examples of the files of conversations, and the corpus rows of each one's clips."""
        order = np.argsort(key_C, kind="stable") if self._data.chats else np.zeros(0, int)
        sorted_C = key_C[order]
        records: list[tuple] = []
        links: list[np.ndarray] = []
        unusable = num_chats = 0
        with ArrowWriter(self._folder / "chats.arrow", CHAT_SCHEMA) as writer:
            for number, (path, weight) in enumerate(self._data.chats.items()):
                before, repeat = 0, 0
                for line, example in read_chats(path, weight=weight):
                    rows = self._corpus_rows(example.clip_ids, sorted_C, order, path, line)
                    if (row_C[rows] < 0).any():
                        unusable += line != before
                        before = line
                        continue
                    repeat = repeat + 1 if line == before else 0
                    if not repeat:
                        writer.write(_chat_row(example, line))
                        num_chats += 1
                    before = line
                    task = len(self._tasks) + number
                    key = mixed(key_C[rows[-1:]], task, np.array([line + repeat]))[0]
                    seconds = seconds_C[rows].sum()
                    records.append((row_C[rows[-1]], task, repeat, num_chats - 1, seconds,
                                    len(example.answer), key, 0))  # fmt: skip
                    links.append(rows)
        if unusable:
            logger.warning(
                "%d conversations are left out: a clip of theirs is (see data.max_duration)",
                unusable,
            )
        return np.array(records, EXAMPLE), links

    def _corpus_rows(
        self, ids: Sequence[str], sorted_C: np.ndarray, order: np.ndarray, path: str, line: int
    ) -> np.ndarray:
        keys = clip_keys(ids)
        at = np.searchsorted(sorted_C, keys).clip(max=len(sorted_C) - 1)
        for clip_id, known in zip(ids, sorted_C[at] == keys, strict=True):
            if not known:
                raise not_a_chat(path, line, f"the corpus has no clip {clip_id!r}")
        return order[at]


def _decoded_seconds(clip: Any) -> float:
    try:
        return audio.decode(clip).seconds
    except audio.AudioError:
        return float("nan")


def _chat_row(example: Any, line: int) -> pa.Table:
    row = {
        "task": example.task,
        "line": line,
        "clip_ids": list(example.clip_ids),
        "messages": json.dumps(example.messages, ensure_ascii=False),
        "question": example.question,
        "answer": example.answer,
    }
    return pa.Table.from_pylist([row], schema=CHAT_SCHEMA)


def _write_answers(path: Path, answers: Iterable[str]) -> None:
    schema = pa.schema([("answer", pa.string())])
    with ArrowWriter(path, schema) as writer:
        writer.write(pa.table({"answer": pa.array(answers, pa.string())}, schema=schema))
