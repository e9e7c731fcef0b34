"""The shards that a build has begun: which of their clips are through which step.

A result that arrives here has been believed; who is believed is `pipeline.build.recovery`'s
business.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from manifests.cache.shards import Failure, Marker
from manifests.clips import Clip
from pipeline.build.failure_rate import FailureRate
from pipeline.build.messages import (
    UNKNOWN_SECONDS,
    DecodeSummary,
    ExtractSummary,
    cut,
    shared_file,
)
from pipeline.build.plan import ShardWork
from pipeline.build.progress import ProgressListener
from pipeline.build.queues import Backlog
from pipeline.build.records import Block, ShardJob, Task

log = logging.getLogger(__name__)


class OpenShards:
    """Shards under way.

    Args:
        backlog: The queues of waiting tasks.
        failure_rate: Stops the build when too many clips fail.
        listener: Receives every step.
        block_clips: Most clips in a block.
        block_seconds: Most audio seconds in a block of several clips.
    """

    def __init__(
        self,
        backlog: Backlog,
        failure_rate: FailureRate,
        listener: ProgressListener,
        *,
        block_clips: int,
        block_seconds: float,
    ) -> None:
        self._backlog = backlog
        self._failure_rate = failure_rate
        self._listener = listener
        self._block_clips = block_clips
        self.block_seconds = block_seconds
        self._jobs: dict[ShardJob, None] = {}
        self._held: list[Task] = []
        self.num_blocks = 0
        """Blocks that are waiting for a step, or in it."""
        self.clips_decoded = 0
        """Clips of this build whose audio could be used."""

    def __bool__(self) -> bool:
        return bool(self._jobs)

    @property
    def oldest(self) -> ShardJob | None:
        """The shard that was opened first."""
        return next(iter(self._jobs), None)

    @property
    def held(self) -> list[Task]:
        """Commits of shards of which not one file is there; they wait until another file is."""
        return self._held

    def open(self, work: ShardWork) -> None:
        """Cuts a shard into blocks, which wait for decoding."""
        job = ShardJob(
            work.number, work.ids, work.clips, list(work.teachers), undecoded=len(work.clips)
        )
        job.parts = {name: {} for name in work.teachers}
        self._jobs[job] = None
        blocks = cut(work.clips, max_clips=self._block_clips, max_seconds=self.block_seconds)
        files = [{shared_file(clip) for clip in clips} for clips in blocks]
        counts = Counter(file for names in files for file in names)
        for number, (clips, names) in enumerate(zip(blocks, files, strict=True)):
            self.add_block(job, number, clips, file=next((f for f in names if counts[f] > 1), ""))

    def add_block(
        self,
        job: ShardJob,
        number: int,
        clips: Sequence[Clip],
        *,
        first: int = 0,
        file: str = "",
    ) -> None:
        """Adds a block to a shard, to be decoded; `file` is the one that has several blocks."""
        seconds = sum(clip.likely_duration or UNKNOWN_SECONDS for clip in clips)
        block = Block(job, number, clips, seconds, first=first, file=file)
        job.blocks.append(block)
        self.num_blocks += 1
        self._backlog.add(Task("decode", job, block))

    def book_audio(self, block: Block, node_id: str, num_bytes: int) -> None:
        """Books a block's audio on a node, in place of what was booked before."""
        self._backlog.audio_bytes[block.node_id] -= block.num_bytes
        block.node_id, block.num_bytes = node_id, num_bytes
        self._backlog.audio_bytes[node_id] += num_bytes

    def decoded(self, task: Task, summary: DecodeSummary) -> None:
        """A block's audio is there."""
        job, block = task.job, task.block
        assert block is not None
        if summary.num_left:
            done = len(block.clips) - summary.num_left
            rest = block.clips[done:]
            self.add_block(job, block.number, rest, first=block.first + done, file=block.file)
            block.clips = block.clips[:done]
        self.book_audio(block, block.node_id, summary.num_bytes)
        block.seconds = summary.seconds
        if summary.num_clips:
            self.clips_decoded += summary.num_clips
            self._listener.clips_decoded(summary.warnings)
            self._release_held()
        self.through_decoding(block, summary.failures)
        if not summary.num_clips:
            self.release(block)
            return
        block.audio, task.payload = task.payload, None
        block.waiting = Counter({name: summary.num_clips for name in job.teachers})
        for name in job.teachers:
            self._backlog.add(Task("extract", job, block, name))

    def through_decoding(self, block: Block, failures: Sequence[Failure]) -> None:
        """Counts a block's clips as decoded, or as failures for every teacher."""
        job = block.job
        job.undecoded -= len(block.clips)
        job.failures += failures
        self._failure_rate.add("decode", len(block.clips), failures)
        for name in job.teachers:
            self._note(job, name, len(failures), 0.0, failures)
            self._commit_if_complete(job, name)

    def extracted(self, task: Task, summary: ExtractSummary, node_id: str) -> None:
        """A block's rows by a teacher are there."""
        job, block, name = task.job, task.block, task.teacher
        assert block is not None
        assert task.payload is not None
        self.add_part(task, task.payload, node_id, summary.num_bytes)
        job.elapsed[name] += summary.elapsed
        self._backlog.measured(name, summary)
        self.through_teacher(block, name, summary.num_clips, summary.seconds, summary.failures)

    def add_part(self, task: Task, handle: Any, node_id: str, num_bytes: int) -> None:
        """Keeps the handle of rows until their shard is committed."""
        assert task.block is not None
        place = task.block.number, task.block.first + (task.position or 0)
        task.job.parts[task.teacher][place] = handle
        task.job.part_bytes[task.teacher][node_id] += num_bytes
        self._backlog.row_bytes[node_id] += num_bytes

    def through_teacher(
        self, block: Block, name: str, clips: int, seconds: float, failures: Sequence[Failure]
    ) -> None:
        """Counts clips as through a teacher, with targets or without."""
        job = block.job
        job.extracted[name] += clips
        self._failure_rate.add(name, clips, failures)
        self._note(job, name, clips, seconds, failures)
        block.waiting[name] -= clips
        if not any(block.waiting.values()):
            self.release(block)
        self._commit_if_complete(job, name)

    def committed(self, task: Task, marker: Marker) -> None:
        """A shard of a teacher is safe."""
        job, name = task.job, task.teacher
        job.teachers.remove(name)
        self._forget_rows(job, name)
        self._listener.committed(name, marker)
        if not job.teachers:
            self._jobs.pop(job, None)

    def release(self, block: Block) -> None:
        """Lets go of a block's audio."""
        block.job.blocks.remove(block)
        block.audio = None
        self.book_audio(block, block.node_id, 0)
        self.num_blocks -= 1

    def abandon(self, job: ShardJob) -> None:
        """Takes back everything of a shard that is not committed."""
        job.abandoned = True
        self._jobs.pop(job, None)
        self._held = [task for task in self._held if task.job is not job]
        for block in list(job.blocks):
            self.release(block)
        for name in job.teachers:
            clips = job.extracted[name] + len(job.failures)
            self._listener.clips_done(name, -clips, -job.seconds[name], -job.failed[name])
            self._forget_rows(job, name)

    def restart(self, job: ShardJob) -> None:
        """Begins a shard again, whose results were lost with a node."""
        if job.abandoned:
            return
        log.warning(
            "results of shard %d were lost with a node; the shard is built again", job.number
        )
        self.abandon(job)
        self.open(ShardWork(job.number, job.ids, job.clips, job.teachers))

    def _release_held(self) -> None:
        held, self._held = self._held, []
        for task in held:
            self._backlog.add(task)

    def release_held(self) -> None:
        """Lets the shards be committed of which no file is there."""
        self._release_held()

    def _forget_rows(self, job: ShardJob, name: str) -> None:
        job.parts.pop(name, None)
        for node_id, num_bytes in job.part_bytes.pop(name, Counter()).items():
            self._backlog.row_bytes[node_id] -= num_bytes

    def _commit_if_complete(self, job: ShardJob, name: str) -> None:
        if not job.complete(name):
            return
        task = Task("commit", job, teacher=name)
        missing = sum(failure.error == "missing" for failure in job.failures)
        if missing == len(job.clips) and self._failure_rate.stops:
            self._held.append(task)
        else:
            self._backlog.add(task)

    def _note(
        self, job: ShardJob, name: str, clips: int, seconds: float, failures: Sequence[Failure]
    ) -> None:
        job.seconds[name] += seconds
        job.failed[name] += len(failures)
        self._listener.clips_done(name, clips, seconds, len(failures))
