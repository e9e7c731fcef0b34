"""Decides how to react to a failure: retry, use another process, split, record, or stop.

There are three kinds of causes. Failures of a clip are recorded with the clip. Failures of the
environment (a store that does not respond, a lost node) are retried with pauses and never recorded:
at worst, the shard is left to the next build. A worker is suspected if a task kills its process or
if a whole block fails on it: the task is repeated on another worker, and both must agree.
"""

from __future__ import annotations

import logging
import time
from collections import Counter

from manifests.errors import UserError
from manifests.storage import cannot_write
from manifests.wording import number_of
from pipeline.build.backend import Backend, LossCause, ResultLost, WorkerLost
from pipeline.build.faults import (
    COMMIT_STRIKES_ALLOWED,
    LOSSES_ALLOWED,
    STRIKES_ALLOWED,
    brief,
    is_final,
    pause,
    worker_failure,
)
from pipeline.build.messages import DecodeSummary, Extracted, ExtractSummary
from pipeline.build.open_shards import OpenShards
from pipeline.build.pools import WorkerHandle
from pipeline.build.queues import Backlog
from pipeline.build.records import ShardJob, Task
from pipeline.build.staffing import Staffing

log = logging.getLogger(__name__)

AGREEMENTS = 2
"""Number of consecutive blocks that failed on two processes, after which one process is
sufficient."""


class Recovery:
    """Reacts to failed calls, lost workers and implausible results.

    Args:
        backend: The cluster.
        shards: The shards under way.
        backlog: The queues of waiting tasks.
        staffing: Starts workers, and avoids nodes.
        retry_seconds: Time for which an unreachable store is retried.
    """

    def __init__(
        self,
        backend: Backend,
        shards: OpenShards,
        backlog: Backlog,
        staffing: Staffing,
        *,
        retry_seconds: float,
    ) -> None:
        self._retry_seconds = retry_seconds
        self._backend = backend
        self._shards = shards
        self._backlog = backlog
        self._staffing = staffing
        self._agreements: Counter[str] = Counter()
        self._last_success: dict[str, float] = {}
        self.left: list[tuple[ShardJob, str]] = []
        """Shards that are left to the next build, with reasons."""

    # Acceptance of results.

    def accepts(
        self, task: Task, member: WorkerHandle, summary: DecodeSummary | ExtractSummary
    ) -> bool:
        """Whether a result is accepted; otherwise the task is repeated in another process."""
        clips = summary.num_clips
        if isinstance(summary, DecodeSummary) and task.block is not None:
            clips = len(task.block.clips) - summary.num_left
        all_failed = bool(summary.failures) and len(summary.failures) == clips
        failed_on, queue = task.failed_on, task.queue
        if not all_failed:
            self._agreements[queue] = 0
            self._last_success[queue] = time.monotonic()
            if failed_on is not None:
                self._replace_faulty(task, failed_on, member)
            return True
        if failed_on is not None:
            self._agreements[queue] += 1
            return True
        # A worker that is still starting will repeat the task.
        alone = member.pool.members == [member]
        if self._agreements[queue] >= AGREEMENTS or (alone and task.kind == "decode"):
            return True
        task.payload, task.failed_on = None, member
        if task.kind == "decode" and task.block is not None:
            self._shards.book_audio(task.block, "", 0)
        self._backlog.add_unconfirmed(task)
        if alone:
            self.retire(member, f"every clip of a block failed ({summary.failures[0].message})")
        return False

    def _replace_faulty(self, task: Task, failed_on: WorkerHandle, member: WorkerHandle) -> None:
        """Replaces a worker on which a block failed that succeeded on another."""
        why = f"{task.description} failed there and succeeded on another worker"
        if task.kind == "decode" and failed_on.node_id != member.node_id:
            self._staffing.avoid(failed_on.pool, failed_on.node_id, why)
            for other in list(failed_on.pool.members):
                if other.node_id == failed_on.node_id:
                    self.retire(other, why)
        elif failed_on in failed_on.pool.members:
            self.retire(failed_on, why)

    def replace_lone_workers(self) -> None:
        """Replaces the only worker of a pool if a task waits for another worker."""
        for task in list(self._backlog.unconfirmed):
            failed_on = task.failed_on
            if failed_on is not None and failed_on.pool.members == [failed_on]:
                self.retire(failed_on, "a block that failed on it needs another process")

    # Lost and replaced workers.

    def retire(self, member: WorkerHandle, why: str) -> None:
        """Ends a worker process; other workers take over its tasks, and none counts as faulty."""
        node = self._staffing.node_name(member.node_id)
        log.warning("a worker on %s is replaced: %s", node, why)
        tasks = member.pool.drop(member)
        self._backend.kill(member.worker)
        for task in tasks:
            self._requeue(task)

    def on_worker_lost(
        self, member: WorkerHandle, cause: LossCause, why: str, *, timed_out: bool = False
    ) -> None:
        """Gives the tasks of a lost worker to others; the running task may be the cause."""
        node = self._staffing.node_name(member.node_id)
        log.warning("a worker on %s is gone (%s); other workers take over its tasks", node, why)
        tasks = member.pool.drop(member)
        self._backend.kill(member.worker)
        at_once = member.pool.calls_at_once
        for place, task in enumerate(tasks):
            if task.job.abandoned:
                continue
            task.alone = task.alone or 1 < at_once > place
            if place:
                self._requeue(task)
            elif cause == "process":
                self._strike(task, why, timed_out=timed_out)
            else:
                self._lose(task, cause, why)

    def _requeue(self, task: Task) -> None:
        if task.job.abandoned:
            return
        self._reset(task)
        if task.failed_on is not None:
            self._backlog.add_unconfirmed(task)
        else:
            self._backlog.add(task)

    def _reset(self, task: Task) -> None:
        task.payload = None
        if task.kind == "decode" and task.block is not None:
            self._shards.book_audio(task.block, "", 0)

    def _lose(self, task: Task, cause: LossCause, why: str) -> None:
        """Handles a task that lost its worker, probably for other reasons."""
        task.losses += 1
        if task.kind == "commit" and cause == "memory":
            self._strike(task, why, timed_out=False)
        elif task.losses < LOSSES_ALLOWED:
            self._reset(task)
            wait = pause(task.losses) if cause == "memory" else 0.0
            self._backlog.add_later(task, time.monotonic() + wait)
        else:
            self.leave(
                task.job, f"{task.description} lost {number_of(task.losses, 'worker')} ({why})"
            )

    def _strike(self, task: Task, why: str, *, timed_out: bool) -> None:
        task.strikes += 1
        if task.kind == "commit":
            if task.strikes >= COMMIT_STRIKES_ALLOWED:
                raise UserError(
                    f"{task.description} has cost {task.strikes} workers ({why}); a process that "
                    "writes a shard most likely needs more memory than its node has left: set "
                    "decode.memory_gb, or run fewer workers per node (decode.num_cpus); the same "
                    "command then goes on"
                )
            self._backlog.add_later(task, time.monotonic() + pause(task.strikes))
            return
        self._reset(task)
        # A block that hangs is split immediately, because its time limit is long.
        if task.strikes < STRIKES_ALLOWED and not (timed_out and self._can_split(task)):
            self._requeue(task)
        else:
            self._split(task, timed_out=timed_out)

    def _can_split(self, task: Task) -> bool:
        block = task.block
        if block is None:
            return False
        if task.kind == "decode":
            return len(block.clips) > 1
        return task.position is None and block.waiting[task.teacher] > 1

    def _split(self, task: Task, *, timed_out: bool) -> None:
        """Splits a task that repeatedly kills workers, so that only the faulty clip fails."""
        job, block = task.job, task.block
        assert block is not None
        if self._can_split(task):
            if task.kind == "decode":
                self._shards.release(block)
                for place, clip in enumerate(block.clips):
                    self._shards.add_block(job, block.number, [clip], first=place)
            else:
                for place in range(block.waiting[task.teacher]):
                    part = Task(
                        "extract", job, block, task.teacher, position=place, alone=task.alone
                    )
                    self._backlog.add(part)
            return
        if task.kind == "decode":
            clip_id = block.clips[0].clip_id
            failure = worker_failure(clip_id, "decode", timed_out=timed_out)
            self._shards.count_decoded(block, [failure])
            self._shards.release(block)
            return
        assert block.audio is not None
        try:
            decoded = self._backend.fetch(block.audio)
        except (ResultLost, WorkerLost):
            self._shards.restart(job)
            return
        clip_id = decoded.clip_ids[task.position or 0]
        failure = worker_failure(clip_id, "extract", timed_out=timed_out)
        handle = self._backend.keep(Extracted([], [failure], {}))
        self._shards.add_part(task, handle, "", 0)
        self._shards.count_extracted(block, task.teacher, 1, 0.0, [failure])

    # Unreachable stores.

    def on_store_error(self, task: Task, error: OSError) -> None:
        """Retries a task after a pause, until the time limit is reached.

        Raises:
            UserError: the time limit is reached; uncommitted work is left to the next build.
        """
        now = time.monotonic()
        task.attempts += 1
        task.first_attempt_at = task.first_attempt_at or now
        in_time = now - task.first_attempt_at < self._retry_seconds
        if task.kind == "commit" and (is_final(error) or not in_time):
            raise cannot_write(brief(error))
        if in_time:
            wait = pause(task.attempts)
            log.warning("%s: %s; trying again in %.0f s", task.description, brief(error), wait)
            self._reset(task)
            self._backlog.add_later(task, now + wait)
            return
        why = f"{task.description}: {brief(error)}"
        if self._last_success.get(task.queue, 0.0) < task.first_attempt_at:
            raise UserError(_unreachable(why))
        self.leave(task.job, why)

    def leave(self, job: ShardJob, why: str) -> None:
        """Leaves a shard to the next build."""
        if job.abandoned:
            return
        log.warning("shard %d is left to the next build: %s", job.number, why)
        self._shards.abandon(job)
        self.left.append((job, why))

    def finish(self) -> None:
        """Raises a UserError if something was left to the next build."""
        if self.left:
            raise UserError(
                f"{number_of(len(self.left), 'shard was', 'shards were')} not built, because "
                + _unreachable(self.left[0][1])
            )


def _unreachable(why: str) -> str:
    return (
        f"the environment failed repeatedly ({why}); no clip is recorded as failed for this: "
        "fix it (network, credentials, mounts, memory) and run the same command again, which "
        "continues from the committed shards"
    )
