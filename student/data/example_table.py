"""A run's examples in memory-mapped files, which need almost no memory per process.

RUN/examples/
  clips.arrow          the clips that can be used, `manifests.clips.SCHEMA`
  clip_index.npy       their ids' hashes, sorted, with the rows (`CLIP_INDEX`)
  shards.npy           the corpus' shard of each clip: what is stored together
  examples.npy         a few numbers for each example (`EXAMPLE`); conversations are built on access
  chats.arrow          conversations from files, as JSON
  answers-TASK.arrow   all answers of a task that offers choices
  summary.json         the sources and counts; written last

The first process of a run builds them in one pass over the corpus; all other processes and workers
map them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.cache.clip_index import clip_keys
from manifests.clips import Clip
from student.config import TaskConfig
from student.data.arrow_files import ArrowRows
from student.data.dataset import TOKENS_PER_SECOND
from student.data.examples import Example, build_example, task_names
from student.data.held_out import HELD_OUT, LEARNT, draw_by_task

CLIP_INDEX = np.dtype([("key", "<u8"), ("row", "<i4")])
EXAMPLE = np.dtype(
    [
        ("clip", "<i4"),  # row of the last clip, whose targets are distilled
        ("task", "<i2"),  # number of the task; files of conversations come after the tasks
        ("repeat", "<i2"),
        ("chat", "<i4"),  # row of the conversation, -1 for a task's example
        ("seconds", "<f4"),  # of all its audio
        ("letters", "<i4"),  # of the answer
        ("key", "<u8"),  # a hash by which examples are drawn
        ("side", "u1"),  # of the split
    ]
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The sources and the content of a folder of examples."""

    made_from: str
    """A hash of corpus, caches and settings; if it differs, the folder is built again."""
    clips: int
    hours: float
    covered: dict[str, int]
    """Stream -> number of clips with targets."""
    by_last_clip: bool = False
    """Whether examples are split and drawn as in versions without such a folder."""
    longest_s: float | None = None
    """Maximum duration of clips; None if clips beyond the backbone's window were kept."""
    asks_once: bool = False
    """Whether a task asks about a held-out clip once, whatever its weight. Earlier versions counted
    repeated questions several times."""

    @classmethod
    def read(cls, folder: Path) -> Summary | None:
        """Reads the summary of a folder; None if there is none that is complete."""
        try:
            return cls(**json.loads((folder / "summary.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


class ClipTable(Mapping[str, Clip]):
    """The usable clips of a corpus, by id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = ArrowRows(folder / "clips.arrow")
        self._index = np.load(folder / "clip_index.npy", mmap_mode="r")

    def __reduce__(self) -> tuple[type[ClipTable], tuple[Path]]:
        return ClipTable, (self._folder,)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return (row["clip_id"] for row in self._rows)

    def __getitem__(self, clip_id: str) -> Clip:
        key = clip_keys([clip_id])[0]
        index = int(np.searchsorted(self._index["key"], key))
        if index < len(self._index) and self._index["key"][index] == key:
            clip = self.row(int(self._index["row"][index]))
            if clip.clip_id == clip_id:
                return clip
        raise KeyError(clip_id)

    @property
    def id_keys(self) -> np.ndarray:
        """Keys of the ids (`manifests.cache.clip_index.clip_keys`)."""
        return self._index["key"]

    def keys_of(self, rows: np.ndarray) -> np.ndarray:
        """Keys of the ids of some rows."""
        return self._index["key"][np.isin(self._index["row"], rows)]

    def row(self, number: int) -> Clip:
        """The clip of a row."""
        row = self._rows[number]
        return Clip(**{**row, "labels": json.loads(row["labels"])})


class ExampleTable(Sequence[Example]):
    """Examples of one folder, or some of them; each is built on access.

    Args:
        folder: Folder written by `student.data.build_table`.
        tasks: Tasks of the recipe.
        chosen: Rows of the folder's examples, in order; all of them if None.
    """

    def __init__(
        self, folder: Path, tasks: Sequence[TaskConfig], chosen: np.ndarray | None = None
    ) -> None:
        self.folder = folder
        summary = Summary.read(folder)
        assert summary is not None
        self.summary = summary
        self.clips = ClipTable(folder)
        self._tasks = tasks
        self._names = task_names(tasks)
        self._examples = np.load(folder / "examples.npy", mmap_mode="r")
        self._chosen = np.arange(len(self._examples), dtype=np.int32) if chosen is None else chosen
        self._chats = ArrowRows(folder / "chats.arrow")
        self._answers = {
            number: _Answers(folder / f"answers-{number}.arrow")
            for number, task in enumerate(tasks)
            if task.choices
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return ExampleTable, (self.folder, self._tasks, self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        record = self._examples[self._chosen[index]]
        clip = self.clips.row(int(record["clip"]))
        number, repeat = int(record["task"]), int(record["repeat"])
        if record["chat"] >= 0:
            return _chat(self._chats[int(record["chat"])], clip, repeat)
        return build_example(
            clip, self._tasks[number], number=number, name=self._names[number], repeat=repeat,
            answers=self._answers.get(number, ()),
        )  # fmt: skip

    def subset(self, places: np.ndarray) -> ExampleTable:
        """Selects examples by position."""
        return ExampleTable(self.folder, self._tasks, np.asarray(self._chosen[places], np.int32))

    def learning(self) -> ExampleTable:
        """The examples to train on."""
        return self._on_side(LEARNT)

    def held_out(self) -> ExampleTable:
        """The held-out examples, without repetitions, in the order of their hashes, so that any
        prefix is representative."""
        held = self._on_side(HELD_OUT)
        if self.summary.by_last_clip:
            return held
        if self.summary.asks_once:
            held = held.subset(np.flatnonzero(held.column("repeat") == 0))
        return held.subset(np.argsort(held.column("key"), kind="stable"))

    def drawn(self, limit: int) -> ExampleTable:
        """Selects up to `limit` examples that represent all tasks, in the order of the table."""
        if self.summary.by_last_clip:
            return self.subset(np.arange(min(limit, len(self))))
        places = draw_by_task(self.column("key"), self.column("task"), limit)
        chosen = self.subset(places)
        return chosen.subset(np.argsort(chosen._chosen, kind="stable"))

    def clip_keys(self) -> np.ndarray:
        """Keys of the ids of all clips of the examples (`manifests.cache.clip_index.clip_keys`)."""
        several = np.flatnonzero(self.column("chat") >= 0).tolist()
        others = clip_keys(clip_id for place in several for clip_id in self[place].clip_ids)
        return np.union1d(self.clips.keys_of(np.unique(self.column("clip"))), others)

    def column(self, name: str) -> np.ndarray:
        """Returns one field of `EXAMPLE` for each example."""
        return self._examples[name][self._chosen]

    def task_counts(self) -> dict[str, int]:
        """Counts examples by task or file of conversations."""
        numbers, first, counts = np.unique(
            self.column("task"), return_index=True, return_counts=True
        )
        counted = dict.fromkeys(self._names, 0)
        for number, place, count in zip(numbers, first, counts, strict=True):
            is_chat = number >= len(self._names)
            name = self[int(place)].task if is_chat else self._names[number]
            counted[name] = counted.get(name, 0) + int(count)
        return counted

    def lengths(self) -> np.ndarray:
        """Estimates the number of tokens of each example."""
        tokens = np.rint(TOKENS_PER_SECOND * self.column("seconds")).astype(np.int64)
        return tokens + self.column("letters") // 4

    def shards(self) -> np.ndarray:
        """The corpus' shard in which the last clip of each example is stored."""
        return np.load(self.folder / "shards.npy", mmap_mode="r")[self.column("clip")]

    def _on_side(self, side: int) -> ExampleTable:
        return self.subset(np.flatnonzero(self.column("side") == side))


class _Answers(Sequence[str]):
    """A task's answers, sorted."""

    def __init__(self, path: Path) -> None:
        self._rows = ArrowRows(path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]["answer"]


def _chat(row: dict[str, Any], clip: Clip, repeat: int) -> Example:
    transcribes = len(row["clip_ids"]) == 1 and row["answer"] == clip.text
    return Example(
        tuple(row["clip_ids"]),
        json.loads(row["messages"]),
        row["answer"],
        task=row["task"],
        kind="transcription" if transcribes else "label",
        question=row["question"],
        id=f"{row['task']}:{row['line']}" + (f"/{repeat}" if repeat else ""),
    )
