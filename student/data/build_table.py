"""Builds a run's folder of examples in one pass over the corpus.

This takes some tens of microseconds per clip and, until the folder is written, about a hundred
bytes (`benchmarks.student_data` measures both).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.progress import track

from manifests.cache.clip_index import clip_keys
from manifests.clips import SCHEMA, from_table, to_table
from manifests.console import as_fields, messages
from manifests.corpus.corpus import Corpus
from manifests.file_list import find_cut_file, write_file_list
from manifests.wording import number_of
from student.config import DataConfig
from student.data.arrow_files import ArrowWriter, take_space
from student.data.corpus_pass import CorpusPass, GrowingArray
from student.data.coverage import check_tasks, count_covered, report_skipped
from student.data.example_table import CLIP_INDEX, EXAMPLE, ExampleTable, Summary
from student.data.examples import (
    Example,
    check_answers,
    distinct_answers,
    not_a_chat,
    read_chats,
)
from student.data.held_out import LEFT_OUT, mixed, recordings, split
from student.distill.streams import Stream

logger = logging.getLogger(__name__)

# Legend: C clips of the corpus, U usable clips, L links (one for each clip of each example).

VERSION = 1
"""Version of the folder's format and of the rules for drawing examples."""
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
CLIPS_AT_ONCE = 1 << 14
"""Number of clips per record batch of clips.arrow."""
CHATS_AT_ONCE = 1024
"""Number of conversations that are written together."""


def open_examples(
    folder: Path,
    corpus: Corpus,
    streams: Mapping[str, Stream],
    data: DataConfig,
    *,
    window_s: float = math.inf,
    begun: bool = False,
    had_table: bool = False,
) -> ExampleTable:
    """Opens the examples of a run, and builds them if those of this corpus, cache and recipe are
    missing.

    Args:
        folder: RUN/examples.
        corpus: The clips.
        streams: The streams, which have durations and targets.
        data: The recipe's data section.
        window_s: Longest audio of the backbone in seconds. Longer clips are skipped, because their
            targets would cover audio that it does not process.
        begun: Whether the run has started. If it was started with a version without such a folder,
            its examples are split as in that version, by the id of a conversation's last clip; if
            it was started with a version that ignored the window, longer clips are kept.
        had_table: Whether the version that started the run wrote such a folder. If the folder is
            missing or incomplete, it is then built as it was.

    Raises:
        UserError: no clip can be used, a stream has no targets for them, a task with choices has
            only one answer, a task has no example, or a line of a file is not a conversation.
    """
    summary = Summary.read(folder)
    older = begun and not had_table
    by_last_clip = older if summary is None else summary.by_last_clip
    keeps_longer = older if summary is None else begun and summary.longest_s is None
    longest_s = data.max_duration if keeps_longer else min(data.max_duration, window_s)
    made_from = _made_from(corpus, streams, data, longest_s, by_last_clip)
    if summary is None or summary.made_from != made_from or find_cut_file(folder):
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        builder = _Builder(part, streams, data, longest_s)
        builder.build(
            corpus, made_from, by_last_clip=by_last_clip, keeps_longer=keeps_longer, begun=begun
        )
        write_file_list(part)
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


class _Builder:
    """Writes a folder of examples."""

    def __init__(
        self, folder: Path, streams: Mapping[str, Stream], data: DataConfig, longest_s: float
    ) -> None:
        self._folder = folder
        self._streams = streams
        self._data = data
        self._longest_s = longest_s

    def build(
        self, corpus: Corpus, made_from: str, *, by_last_clip: bool, keeps_longer: bool, begun: bool
    ) -> None:
        """Writes the folder."""
        clips = self._read_corpus(corpus)
        report_skipped(
            corpus.num_clips, clips.num_usable, clips.skipped,
            self._data.max_duration, self._longest_s, has_reasons=clips.has_reasons,
        )  # fmt: skip
        if not begun:
            answered = [task_rows.num_answered for task_rows in clips.tasks]
            check_tasks(self._data.tasks, answered, clips.fields)
        usable_C = clips.row_C >= 0
        covered = count_covered(clips.key_C[usable_C], self._streams)
        self._write_index(clips, usable_C, corpus)
        chats, chat_link_L, chat_example_L = self._add_chats(clips)
        examples = self._write_examples(clips, np.flatnonzero(usable_C).astype(np.int32), chats)
        # The split, which follows, needs neither of them.
        clips.key_C, clips.seconds_C = np.empty(0, np.uint64), np.empty(0, np.float32)
        if len(examples):
            self._split(
                examples, clips, usable_C, (chat_link_L, chat_example_L), by_last_clip=by_last_clip
            )
        left_out = int((examples["side"] == LEFT_OUT).sum())
        if left_out:
            logger.warning(
                "%s skipped, because a held-out conversation contains one of the same clips",
                number_of(left_out, "example is", "examples are"),
            )
        _flush(examples)
        summary = Summary(
            made_from=made_from,
            clips=clips.num_usable,
            hours=clips.hours,
            covered=covered,
            by_last_clip=by_last_clip,
            longest_s=None if keeps_longer else self._longest_s,
            asks_once=True,
        )
        (self._folder / "summary.json").write_text(json.dumps(asdict(summary)))

    def _read_corpus(self, corpus: Corpus) -> CorpusPass:
        clips = CorpusPass(corpus.num_clips, self._streams, self._data, self._longest_s)
        with ArrowWriter(self._folder / "clips.arrow", SCHEMA, rows=CLIPS_AT_ONCE) as writer:
            tables = track(
                corpus.tables(), "examples", corpus.num_shards, console=messages, transient=True,
                disable=corpus.num_shards < 64,
            )  # fmt: skip
            for table in tables:
                if table.schema.names != SCHEMA.names:  # a part in an older format
                    table = to_table(from_table(table))
                writer.write(table.filter(pa.array(clips.add(table))))
        pa.default_memory_pool().release_unused()
        return clips

    def _write_index(self, clips: CorpusPass, usable_C: np.ndarray, corpus: Corpus) -> None:
        key_U, row_U = clips.key_C[usable_C], clips.row_C[usable_C]
        order_U = np.argsort(key_U, kind="stable")
        index = np.empty(len(key_U), CLIP_INDEX)
        index["key"], index["row"] = key_U[order_U], row_U[order_U]
        np.save(self._folder / "clip_index.npy", index)
        shard_C = np.repeat(np.arange(corpus.num_shards, dtype=np.int32), corpus.shard_sizes())
        np.save(self._folder / "shards.npy", shard_C[usable_C])

    def _write_examples(
        self, clips: CorpusPass, corpus_row_U: np.ndarray, chats: np.ndarray
    ) -> np.ndarray:
        """Writes the examples of all tasks, each in the order of the clips, and then the
        conversations.

        The file is memory-mapped, so that written parts do not have to stay in memory.
        """
        count = sum(len(task_rows.rows) for task_rows in clips.tasks) + len(chats)
        path = self._folder / "examples.npy"
        if not count:
            np.save(path, np.zeros(0, EXAMPLE))
            return np.zeros(0, EXAMPLE)
        examples = np.lib.format.open_memmap(path, "w+", EXAMPLE, (count,))
        take_space(path)
        start = 0
        for number, (task, task_rows) in enumerate(zip(self._data.tasks, clips.tasks, strict=True)):
            for rows in task_rows.rows.blocks():
                part = examples[start : start + len(rows)]
                start += len(rows)
                for name in ("clip", "repeat", "letters"):
                    part[name] = rows[name]
                part["task"], part["chat"] = number, -1
                place = corpus_row_U[rows["clip"]]
                part["seconds"] = clips.seconds_C[place]
                part["key"] = mixed(clips.key_C[place], number, rows["repeat"])
            task_rows.rows = GrowingArray(task_rows.rows.blocks()[0].dtype)
            if task.choices:
                answers = distinct_answers(task, task_rows.answers.sorted())
                check_answers(task, answers)
                _write_answers(self._folder / f"answers-{number}.arrow", answers)
        examples[start:] = chats
        return examples

    def _split(
        self,
        examples: np.ndarray,
        clips: CorpusPass,
        usable_C: np.ndarray,
        chat_links: tuple[np.ndarray, np.ndarray],
        *,
        by_last_clip: bool,
    ) -> None:
        """Determines the side of each example.

        Examples and clips are connected by links: one for each task's example, several for
        conversations, whose links are passed in.
        """
        corpus_row_U = np.flatnonzero(usable_C).astype(np.int32)
        if by_last_clip:
            recording_L, example_L = corpus_row_U[examples["clip"]], np.arange(len(examples))
            task_E = np.zeros(len(examples), np.int16)
        else:
            num_of_tasks = int((examples["chat"] < 0).sum())
            link_L, example_L = chat_links
            recording_C = recordings(clips.file_C, clips.group_C)
            task_recording_L = recording_C[corpus_row_U[examples["clip"][:num_of_tasks]]]
            recording_L = np.concatenate([task_recording_L, recording_C[link_L]])
            first = np.arange(num_of_tasks, dtype=np.int32)
            example_L = np.concatenate([first, num_of_tasks + example_L])
            task_E = np.array(examples["task"])
        examples["side"] = split(
            recording_L, example_L, task_E, clips.draw_C, self._data.validation
        )

    def _add_chats(self, clips: CorpusPass) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads the files of conversations. Returns their examples, and for each clip in them the
        clip's row in the corpus and the position of the example."""
        row_C, key_C = clips.row_C, clips.key_C
        order = np.argsort(key_C, kind="stable") if self._data.chats else np.zeros(0, int)
        sorted_C = key_C[order]
        examples, links = GrowingArray(EXAMPLE), GrowingArray(np.dtype(np.int32))
        example_of_link = GrowingArray(np.dtype(np.int32))
        unusable = num_chats = num_examples = 0
        with _ChatWriter(self._folder / "chats.arrow") as writer:
            for number, (path, weight) in enumerate(self._data.chats.items()):
                before, repeat = 0, 0
                for line, example in read_chats(path, weight=weight):
                    rows = _corpus_rows(example.clip_ids, sorted_C, order, path, line)
                    if (row_C[rows] < 0).any():
                        unusable += line != before
                        before = line
                        continue
                    repeat = repeat + 1 if line == before else 0
                    if not repeat:
                        writer.write(example, line)
                        num_chats += 1
                    before = line
                    task = len(clips.tasks) + number
                    key = mixed(key_C[rows[-1:]], task, np.array([line + repeat]))[0]
                    seconds = clips.seconds_C[rows].sum()
                    record = (row_C[rows[-1]], task, repeat, num_chats - 1, seconds,
                              len(example.answer), key, 0)  # fmt: skip
                    examples.extend(np.array([record], EXAMPLE))
                    links.extend(rows.astype(np.int32))
                    example_of_link.extend(np.full(len(rows), num_examples, np.int32))
                    num_examples += 1
        if unusable:
            logger.warning(
                "%d conversations with skipped clips are skipped, too (see data.max_duration)",
                unusable,
            )
        return examples.whole(), links.whole(), example_of_link.whole()


def _corpus_rows(
    ids: Sequence[str], sorted_C: np.ndarray, order: np.ndarray, path: str, line: int
) -> np.ndarray:
    keys = clip_keys(ids)
    place = np.searchsorted(sorted_C, keys).clip(max=len(sorted_C) - 1)
    for clip_id, known in zip(ids, sorted_C[place] == keys, strict=True):
        if not known:
            raise not_a_chat(path, line, f"the corpus has no clip {clip_id!r}")
    return order[place]


class _ChatWriter:
    """Writes conversations in large groups."""

    def __init__(self, path: Path) -> None:
        self._writer = ArrowWriter(path, CHAT_SCHEMA)
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> _ChatWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._writer.__exit__(*error)

    def write(self, example: Example, line: int) -> None:
        """Adds a conversation."""
        self._rows.append(
            {
                "task": example.task,
                "line": line,
                "clip_ids": list(example.clip_ids),
                "messages": json.dumps(example.messages, ensure_ascii=False),
                "question": example.question,
                "answer": example.answer,
            }
        )
        if len(self._rows) >= CHATS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._writer.write(pa.Table.from_pylist(self._rows, schema=CHAT_SCHEMA))
        self._rows = []


def _flush(examples: np.ndarray) -> None:
    if isinstance(examples, np.memmap):
        examples.flush()


def _write_answers(path: Path, answers: Sequence[str]) -> None:
    schema = pa.schema([("answer", pa.string())])
    with ArrowWriter(path, schema) as writer:
        for start in range(0, len(answers), CLIPS_AT_ONCE):
            part = pa.array(answers[start : start + CLIPS_AT_ONCE]).cast(pa.string())
            writer.write(pa.table({"answer": part}, schema=schema))
