"""The driver's records of a running build: shards, their blocks, and calls of workers."""

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
    """One shard of the corpus and the teachers that still lack it."""

    number: int
    ids: Sequence[str]
    """Ids of the whole shard, in order."""
    clips: Sequence[Clip]
    """The clips to process: the whole shard, or those that failed before."""
    teachers: list[str]
    """Teachers whose shard is not yet committed."""
    undecoded: int
    """Number of clips that are not yet decoded."""
    blocks: list[Block] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    """Decoding failures, which count for every teacher."""
    parts: dict[str, dict[tuple[int, int], Any]] = field(default_factory=dict)
    """Teacher -> (block, clip within it) -> handle of its rows, which stay on their node."""
    part_bytes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Teacher -> node -> bytes of those rows."""
    extracted: Counter[str] = field(default_factory=Counter)
    """Teacher -> number of processed clips, with rows or failures."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Teacher -> processed audio seconds."""
    failed: Counter[str] = field(default_factory=Counter)
    """Teacher -> number of clips without targets, including those that could not be decoded."""
    elapsed: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Teacher -> worker seconds."""
    abandoned: bool = False
    """Whether it was restarted as another job or left to a later build; late results are
    dropped."""

    def complete(self, teacher: str) -> bool:
        """Whether every clip was decoded and processed by the teacher, or has failed."""
        through = self.extracted[teacher] + len(self.failures)
        return not self.undecoded and through == len(self.clips)


@dataclass(slots=True, eq=False)
class Block:
    """A few clips of a shard that are decoded and processed together."""

    job: ShardJob
    number: int
    clips: Sequence[Clip]
    seconds: float
    """Audio seconds: an estimate until the block is decoded, then exact."""
    first: int = 0
    """Position of the first clip within the original block."""
    file: str = ""
    """The file of all its clips if that file has several blocks; else empty."""
    audio: Any = None
    """Handle of `Decoded`, which stays on the node that decoded it."""
    node_id: str = ""
    """Node on which it was or is being decoded."""
    num_bytes: int = 0
    """Bytes of the audio on that node: an estimate until the block is decoded, then exact."""
    waiting: Counter[str] = field(default_factory=Counter)
    """Teacher -> number of decoded clips that it has not yet processed."""


@dataclass(slots=True, eq=False)
class Task:
    """One call of a worker."""

    kind: Literal["decode", "extract", "commit"]
    job: ShardJob
    block: Block | None = None
    teacher: str = ""
    position: int | None = None
    """The only decoded clip to extract, after the block was split."""
    strikes: int = 0
    """Number of workers that died while running it, or did not return from it."""
    losses: int = 0
    """Number of workers that were lost while running it for other reasons."""
    attempts: int = 0
    """Number of attempts that failed because a store could not be reached."""
    first_attempt_at: float = 0.0
    """Time of the first of these failures."""
    alone: bool = False
    """Whether it must run alone in its worker: it was in a worker that died while running several
    calls, so the next death must identify the cause."""
    failed_on: WorkerHandle | None = None
    """The worker on which every clip failed; another worker has to confirm this."""
    payload: Any = None
    """Handle of its large result, which stays on its node."""

    @property
    def queue(self) -> str:
        """Its queue: its teacher's, or that of its kind."""
        return self.teacher if self.kind == "extract" else self.kind

    @property
    def description(self) -> str:
        """Describes the step and shard, for messages."""
        if self.kind == "commit":
            return f"committing shard {self.job.number} of {self.teacher}"
        clip = self.block.clips[0].clip_id if self.block and self.block.clips else ""
        doing = "decoding" if self.kind == "decode" else f"running {self.teacher} on"
        return f"{doing} a block of shard {self.job.number} (first clip {clip})"
