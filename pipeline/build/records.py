"""The driver's records of a build under way: shards, their blocks, and calls of workers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from manifests.cache.shards import Failure
from manifests.clips import Clip

if TYPE_CHECKING:
    from pipeline.build.pools import WorkerHandle


@dataclass(slots=True, eq=False)
class ShardJob:
    """One slice of the corpus and the teachers that still lack it."""

    number: int
    ids: Sequence[str]
    """Ids of the whole slice, in order."""
    clips: Sequence[Clip]
    """The clips to be done: the whole slice, or those that failed before."""
    teachers: list[str]
    """Teachers whose part is not yet committed."""
    undecoded: int
    """Clips not yet through decoding."""
    blocks: list[Block] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    """Failures of decoding, which count for every teacher."""
    parts: dict[str, dict[tuple[int, int], Any]] = field(default_factory=dict)
    """Teacher -> (block, clip within it) -> handle of its rows, which stay where they were made."""
    part_bytes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Teacher -> node -> bytes of those rows."""
    extracted: Counter[str] = field(default_factory=Counter)
    """Teacher -> clips through it, in rows or failures."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Teacher -> audio seconds through it."""
    failed: Counter[str] = field(default_factory=Counter)
    """Teacher -> clips without targets, those that would not decode among them."""
    elapsed: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Teacher -> worker seconds."""
    abandoned: bool = False
    """Started over as another job, or left undone; whatever still arrives for it is dropped."""

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
    seconds: float
    """Audio seconds: expected until it is decoded, then true."""
    first: int = 0
    """Place of the first clip within the block as it was cut."""
    file: str = ""
    """The file of all its clips, where that file has several blocks; else empty."""
    audio: Any = None
    """Handle of `Decoded`, which stays on the node that decoded it."""
    node_id: str = ""
    """Node on which it was decoded, or is being decoded."""
    num_bytes: int = 0
    """Bytes of the audio on that node: expected until it is decoded, then true."""
    waiting: Counter[str] = field(default_factory=Counter)
    """Teacher -> decoded clips that are not yet through it."""


@dataclass(slots=True, eq=False)
class Task:
    """One call of a worker."""

    kind: Literal["decode", "extract", "commit"]
    job: ShardJob
    block: Block | None = None
    teacher: str = ""
    position: int | None = None
    """The only decoded clip to extract, once the block has been split."""
    strikes: int = 0
    """Workers that died while running it, or did not come back from it."""
    losses: int = 0
    """Workers that were lost while running it through no fault of the task."""
    attempts: int = 0
    """Tries that failed because a store could not be reached."""
    first_attempt_at: float = 0.0
    """When the first of those failed."""
    alone: bool = False
    """Whether nothing else may run in its worker: it has been in a worker that died while running
    several calls, so the next death must say which of them it was."""
    doubter: WorkerHandle | None = None
    """The worker on which every clip failed; another one has to agree."""
    payload: Any = None
    """Handle of its large result, which stays where it was made."""

    @property
    def queue(self) -> str:
        """The queue it waits in: its teacher's, or that of its kind."""
        return self.teacher if self.kind == "extract" else self.kind

    @property
    def description(self) -> str:
        """A phrase for messages that says which step of which shard this is."""
        if self.kind == "commit":
            return f"committing shard {self.job.number} of {self.teacher}"
        clip = self.block.clips[0].clip_id if self.block and self.block.clips else ""
        doing = "decoding" if self.kind == "decode" else f"running {self.teacher} on"
        return f"{doing} a block of shard {self.job.number} (first clip {clip})"
