"""The driver's records of a build under way: shards, their blocks, and calls of workers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import ray

from manifests.cache.shards import Failure
from manifests.clips import Clip


@dataclass(slots=True, eq=False)
class ShardJob:
    """One slice of the corpus and the teachers that still lack it."""

    number: int
    ids: Sequence[str]
    """Of the whole slice, in order."""
    clips: Sequence[Clip]
    """To be done: the whole slice, or those that failed before."""
    teachers: list[str]
    """Not yet committed."""
    undecoded: int
    """Clips not yet through decoding."""
    blocks: list[Block] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    """Of decoding: they count for every teacher."""
    parts: dict[str, dict[tuple[int, int], ray.ObjectRef]] = field(default_factory=dict)
    """Teacher -> (block, clip within it) -> rows, in the object store."""
    extracted: Counter[str] = field(default_factory=Counter)
    """Teacher -> clips through it, in rows or failures."""
    heard: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Teacher -> audio seconds through it."""
    failed: Counter[str] = field(default_factory=Counter)
    """Teacher -> clips without targets, those that would not decode among them."""
    elapsed: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Teacher -> worker seconds."""
    abandoned: bool = False
    """Started over as another job; whatever still arrives for this one is dropped."""

    def complete(self, teacher: str) -> bool:
        """Whether every clip is through decoding and the teacher, or has failed."""
        through = self.extracted[teacher] + len(self.failures)
        return not self.undecoded and through == len(self.clips)


@dataclass(slots=True, eq=False)
class Block:
    """A few clips of a shard on their way through the teachers."""

    job: ShardJob
    number: int
    clips: Sequence[Clip]
    first: int = 0
    """Place of the first clip within the block as it was cut."""
    audio: ray.ObjectRef | None = None
    """`Decoded`, in the object store."""
    num_bytes: int = 0
    """Of the audio: expected until it is decoded, then true."""
    waiting: Counter[str] = field(default_factory=Counter)
    """Teacher -> decoded clips that it has not heard."""


@dataclass(slots=True, eq=False)
class Task:
    """One call of a worker."""

    kind: Literal["decode", "extract", "commit"]
    job: ShardJob
    block: Block | None = None
    teacher: str = ""
    position: int | None = None
    """The only decoded clip to extract, once the block has been taken apart."""
    deaths: int = 0
    """Workers that died while running it."""
    attempts: int = 0
    """Times that writing failed."""
    payload: ray.ObjectRef | None = None
    """Its large result, in the object store."""

    @property
    def queue(self) -> str:
        """The queue it waits in: its teacher's, or that of its kind."""
        return self.teacher if self.kind == "extract" else self.kind
