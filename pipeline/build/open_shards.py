"""Tracks the open shards of a build and the progress of their clips.

Only accepted results are passed to this module; `pipeline.build.recovery` decides which are
accepted.
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
    """The shards that were started and are not yet committed.

    Args:
        backlog: The queues of waiting tasks.
        failure_rate: Stops the build if too many clips fail.
        listener: Receives every step.
        block_clips: Maximum number of clips in a block.
        block_seconds: Maximum audio seconds in a block of several clips.
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
        """Number of blocks that wait for a step or are in it."""
        self.clips_decoded = 0
        """Number of clips of this build with usable audio."""

    def __bool__(self) -> bool:
        return bool(self._jobs)

    @property
    def oldest(self) -> ShardJob | None:
        """The shard that was opened first."""
        return next(iter(self._jobs), None)

    @property
    def held(self) -> list[Task]:
        """Commits of shards of which no file exists; they wait until another file can be read."""
        return self._held

    def open(self, work: ShardWork) -> None:
        """Opens a shard: cuts it into blocks, which wait for decoding."""
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
        """Adds a block to a shard for decoding; `file` is set if a file has several blocks."""
        seconds = sum(clip.likely_duration or UNKNOWN_SECONDS for clip in clips)
        block = Block(job, number, clips, seconds, first=first, file=file)
        job.blocks.append(block)
        self.num_blocks += 1
        self._backlog.add(Task("decode", job, block))

    def book_audio(self, block: Block, node_id: str, num_bytes: int) -> None:
        """Records the bytes of a block's audio on a node, replacing an earlier record."""
        self._backlog.audio_bytes[block.node_id] -= block.num_bytes
        block.node_id, block.num_bytes = node_id, num_bytes
        self._backlog.audio_bytes[node_id] += num_bytes
        if num_bytes:
            self._backlog.decoded.add(block)
        else:
            self._backlog.decoded.discard(block)

    def decoded(self, task: Task, summary: DecodeSummary) -> None:
        """Handles a decoded block."""
        job, block = task.job, task.block
        assert block is not None
        if summary.num_left:
            done = len(block.clips) - summary.num_left
            rest = block.clips[done:]
            self.add_block(job, block.number, rest, first=block.first + done, file=block.file)
            block.clips = block.clips[:done]
        self.book_audio(block, block.node_id, summary.num_bytes)
        self._backlog.measured("decode", summary)
        block.seconds = summary.seconds
        if summary.num_clips:
            self.clips_decoded += summary.num_clips
            self._listener.clips_decoded(summary.warnings)
            self._release_held()
        self.count_decoded(block, summary.failures)
        if not summary.num_clips:
            self.release(block)
            return
        block.audio, task.payload = task.payload, None
        block.waiting = Counter({name: summary.num_clips for name in job.teachers})
        for name in job.teachers:
            self._backlog.add(Task("extract", job, block, name))

    def count_decoded(self, block: Block, failures: Sequence[Failure]) -> None:
        """Counts a block's clips as decoded or, for every teacher, as failed."""
        job = block.job
        job.undecoded -= len(block.clips)
        job.failures += failures
        self._failure_rate.add("decode", len(block.clips), failures)
        for name in job.teachers:
            self._note(job, name, len(failures), 0.0, failures)
            self._commit_if_complete(job, name)

    def extracted(self, task: Task, summary: ExtractSummary, node_id: str) -> None:
        """Handles a block's rows by a teacher."""
        job, block, name = task.job, task.block, task.teacher
        assert block is not None
        assert task.payload is not None
        self.add_part(task, task.payload, node_id, summary.num_bytes)
        job.elapsed[name] += summary.elapsed
        self._backlog.measured(name, summary)
        self.count_extracted(block, name, summary.num_clips, summary.seconds, summary.failures)

    def add_part(self, task: Task, handle: Any, node_id: str, num_bytes: int) -> None:
        """Keeps the handle of rows until their shard is committed."""
        assert task.block is not None
        place = task.block.number, task.block.first + (task.position or 0)
        task.job.parts[task.teacher][place] = handle
        task.job.part_bytes[task.teacher][node_id] += num_bytes
        self._backlog.row_bytes[node_id] += num_bytes

    def count_extracted(
        self, block: Block, name: str, clips: int, seconds: float, failures: Sequence[Failure]
    ) -> None:
        """Counts clips as processed by a teacher, with or without targets."""
        job = block.job
        job.extracted[name] += clips
        self._failure_rate.add(name, clips, failures)
        self._note(job, name, clips, seconds, failures)
        block.waiting[name] -= clips
        if not any(block.waiting.values()):
            self.release(block)
        self._commit_if_complete(job, name)

    def committed(self, task: Task, marker: Marker) -> None:
        """Handles the commit of a teacher's shard."""
        job, name = task.job, task.teacher
        job.teachers.remove(name)
        self._forget_rows(job, name)
        self._listener.committed(name, marker)
        if not job.teachers:
            self._jobs.pop(job, None)

    def release(self, block: Block) -> None:
        """Releases a block's audio."""
        block.job.blocks.remove(block)
        block.audio = None
        self.book_audio(block, block.node_id, 0)
        self.num_blocks -= 1

    def abandon(self, job: ShardJob) -> None:
        """Discards everything of a shard that is not committed."""
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
        """Restarts a shard whose results were lost with a node."""
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
        """Allows committing the shards of which no file exists."""
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
