"""The driver's loop, which gives every worker its next task, from decoding to commit.

The driver holds handles and small summaries; audio and targets move between workers.

`queues` orders waiting tasks, `open_shards` handles results, `recovery` handles failures, and
`staffing` starts workers. The tasks of a lost worker are given to others, and a shard whose
intermediate results were lost with a node is restarted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from manifests.storage import Folder
from pipeline.build import lookahead, pools
from pipeline.build.backend import Backend, Call, Node, ResultLost, WorkerLost
from pipeline.build.codec_gate import CodecGate
from pipeline.build.failure_rate import FailureRate, no_file_is_there
from pipeline.build.faults import BrokenProcess, brief
from pipeline.build.messages import CommitRequest
from pipeline.build.open_shards import OpenShards
from pipeline.build.plan import ShardWork
from pipeline.build.pools import WorkerHandle
from pipeline.build.progress import ProgressListener
from pipeline.build.queues import Backlog
from pipeline.build.read_ahead import Prefetch
from pipeline.build.records import Task
from pipeline.build.recovery import Recovery
from pipeline.build.setup import TeacherSetup
from pipeline.build.staffing import Staffing
from pipeline.build.time_limits import TimeLimits
from pipeline.config import BuildConfig

GROW_EVERY_S = 3.0
HURRY_S = 0.5
"""Used instead of `GROW_EVERY_S` while a pool has no worker."""
CHECK_EVERY_S = 1.0
BLOCK_CLIPS, BLOCK_SECONDS = 4, 240.0
GPU_BLOCK_CLIPS, GPU_BLOCK_SECONDS = 128, 600.0
"""The seconds fill a GPU's batch of 600 s."""
WAIT_S = 0.5
"""Maximum wait for a result, after which signals and pauses are checked."""
HURRIED_WAIT_S = 0.02
"""The same while workers wait for shards that are still being read."""


def _never() -> None:
    """Never stops: the default of `check_stop`."""


class Scheduler:
    """Runs the missing shards of a corpus through the teachers that lack them.

    Args:
        backend: The cluster.
        setups: The teachers.
        work: The shards to build, in order.
        folders: Teacher -> folder of its shards.
        config: The limits of the build.
        listener: Receives every step.
        accept_failures: Whether any failure rate is acceptable, as when failures are retried.
        check_stop: Raises an exception if the build must stop.
    """

    def __init__(
        self,
        backend: Backend,
        setups: Sequence[TeacherSetup],
        work: Iterator[ShardWork],
        folders: Mapping[str, Folder],
        config: BuildConfig,
        listener: ProgressListener,
        *,
        accept_failures: bool = False,
        check_stop: Callable[[], None] = _never,
    ) -> None:
        self._backend = backend
        self._setups = {setup.name: setup for setup in setups}
        self._work = Prefetch(work)
        self._folders = folders
        self._config = config
        self._listener = listener
        self._check_stop = check_stop
        self._rates = sorted({setup.spec.sample_rate for setup in setups})
        self._limits = TimeLimits(config.hang_seconds)
        self._pools, self._decoders = pools.arrange(setups, config.decode)
        pools.check_fits(self._pools, backend.nodes())
        self._backlog = Backlog(self._setups)
        uses_gpu = any(setup.resources.num_gpus for setup in setups)
        self._failure_rate = FailureRate(None if accept_failures else config.max_failure_rate)
        self._shards = OpenShards(
            self._backlog,
            self._failure_rate,
            listener,
            block_clips=config.block_clips or (GPU_BLOCK_CLIPS if uses_gpu else BLOCK_CLIPS),
            block_seconds=config.block_seconds
            or (GPU_BLOCK_SECONDS if uses_gpu else BLOCK_SECONDS),
        )
        self._staffing = Staffing(
            backend,
            self._pools,
            self._limits,
            config.cache,
            search_up_to=self._shards.block_seconds if config.batch_seconds == "auto" else 0.0,
        )
        self._recovery = Recovery(
            backend,
            self._shards,
            self._backlog,
            self._staffing,
            retry_seconds=config.retry_seconds,
        )
        self._codec_gate = CodecGate({setup.name: setup.spec for setup in setups}, folders)
        self._is_filled = False
        self._running: dict[Call, tuple[Task, WorkerHandle]] = {}

    def run(self) -> None:
        """Runs until every shard is committed, then ends all workers.

        Raises:
            UserError: the build cannot continue; the message states why and what to do.
        """
        try:
            self._work_through()
            self._recovery.finish()
            self._failure_rate.check_end()
        finally:
            self._work.close()
            self._staffing.dismiss()

    def _work_through(self) -> None:
        grown_at = checked_at = -GROW_EVERY_S
        while not self._work.is_over or self._shards:
            self._check_stop()
            now = time.monotonic()
            if now - grown_at > (GROW_EVERY_S if self._staffing.is_complete else HURRY_S):
                self._set_room(self._staffing.grow(now))
                self._recovery.replace_lone_workers()
                grown_at = now
            if now - checked_at > CHECK_EVERY_S:
                self._end_overdue(now)
                checked_at = now
            self._backlog.release_due(now)
            self._open_shards()
            self._dispatch(now)
            self._collect()
            self._decide_held()
            self._listener.tick()

    def _set_room(self, nodes: Sequence[Node]) -> None:
        share = self._config.memory_fraction
        self._backlog.set_room(
            {node.node_id: share * node.resources.get("object_store_memory", 0) for node in nodes}
        )

    def _open_shards(self) -> None:
        ahead = lookahead.most_blocks(self._pools)
        while not self._work.is_over and self._shards.num_blocks < ahead:
            following = self._work.take(0.0 if self._shards else WAIT_S)
            if following is None:
                break
            self._shards.open(following)
        self._is_filled = self._work.is_over or self._shards.num_blocks >= ahead

    def _dispatch(self, now: float) -> None:
        idle = self._is_idle()
        self._backlog.blocks_ahead = lookahead.blocks_ahead(
            self._pools,
            self._decoders,
            self._backlog.costs,
            commit_seconds=self._backlog.commit_seconds,
            block_seconds=self._backlog.block_seconds,
        )
        for pool in self._pools:
            if not len(self._backlog):
                return
            for member in pool.free():
                if member.tasks and self._backlog.extractions(pool) <= len(pool.members):
                    break
                task = self._backlog.next(
                    member,
                    decodes=pool is self._decoders,
                    oldest=self._shards.oldest,
                    idle=idle,
                )
                if task is not None:
                    self._submit(task, member, now)
                    idle = False

    def _is_idle(self) -> bool:
        """Whether all workers are idle."""
        return not any(member.tasks for pool in self._pools for member in pool.members)

    def _submit(self, task: Task, member: WorkerHandle, now: float) -> None:
        job, block, worker = task.job, task.block, member.worker
        if task.kind == "commit":
            request = CommitRequest(
                spec=self._setups[task.teacher].spec,
                folder=self._folders[task.teacher],
                shard=job.number,
                ids=job.ids,
                done=[clip.clip_id for clip in job.clips],
                failures=job.failures,
                extract_seconds=job.elapsed[task.teacher],
            )
            parts = [handle for _, handle in sorted(job.parts[task.teacher].items())]
            call = self._backend.call(worker, "commit", request, parts)
        elif task.kind == "decode":
            assert block is not None
            num_bytes = int(4 * sum(self._rates) * block.seconds)
            self._shards.book_audio(block, member.node_id, num_bytes)
            limit = self._config.max_clip_seconds
            arguments = (block.clips, self._rates, limit, self._shards.block_seconds)
            call = self._backend.call(worker, "decode", *arguments, keep=True)
        else:
            assert block is not None
            arguments = (task.teacher, block.audio, task.position)
            call = self._backend.call(worker, "extract", *arguments, keep=True)
        task.payload = call.kept
        member.pool.give(member, task, now)
        self._running[call] = task, member

    def _collect(self) -> None:
        """Handles completed calls; losses come last, so that finished work counts."""
        lost: list[tuple[WorkerHandle, WorkerLost]] = []
        for call in self._backend.completed(WAIT_S if self._is_filled else HURRIED_WAIT_S):
            now = time.monotonic()
            if self._staffing.owns(call):
                ready = self._staffing.on_call(call, now)
                if ready is not None:
                    self._listener.workers(self._num_workers(), ready[1])
                continue
            task, member = self._running.pop(call, (None, None))
            if task is None or member is None or task not in member.tasks:
                continue  # The worker was ended meanwhile; its task was given to others.
            try:
                self._on_task_done(call, task, member, now)
            except WorkerLost as error:
                lost.append((member, error))
        for member, error in lost:
            if member in member.pool.members:
                self._recovery.on_worker_lost(member, error.cause, brief(error))
                self._listener.workers(self._num_workers(), 0.0)

    def _on_task_done(self, call: Call, task: Task, member: WorkerHandle, now: float) -> None:
        try:
            result = self._backend.result(call)
        except WorkerLost:
            raise
        except BrokenProcess as error:
            # The task stays with the worker, so that it counts as the running one.
            if member.tasks and member.tasks[0] is not task:
                member.tasks.remove(task)
                member.tasks.insert(0, task)
            raise WorkerLost("process", brief(error)) from None
        except ResultLost:
            member.pool.take(member, task, now)
            self._shards.restart(task.job)
            return
        except OSError as error:
            member.pool.take(member, task, now)
            if not task.job.abandoned:
                self._recovery.on_store_error(task, error)
            return
        elapsed = now - member.task_began
        member.pool.take(member, task, now)
        if task.job.abandoned:
            return
        if task.kind == "commit":
            self._backlog.measured_commit(elapsed)
            self._shards.committed(task, result)
            self._codec_gate.add(task.teacher, result)
        elif self._recovery.accepts(task, member, result):
            if task.kind == "decode":
                self._shards.decoded(task, result)
            else:
                self._shards.extracted(task, result, member.node_id)

    def _end_overdue(self, now: float) -> None:
        for pool in self._pools:
            for member in list(pool.members):
                if not member.tasks:
                    continue
                task = member.tasks[0]
                if now - member.task_began > self._limits.task(task):
                    why = f"{task.description} did not finish in {self._limits.task(task):.0f} s"
                    self._recovery.on_worker_lost(member, "process", why, timed_out=True)

    def _decide_held(self) -> None:
        """Decides about shards of which no file exists, after all other work is done."""
        held = self._shards.held
        if not held or not self._work.is_over or len(self._backlog) or not self._is_idle():
            return
        if self._shards.clips_decoded:
            self._shards.release_held()
            return
        job = held[0].job
        clips = sum(len(task_job.clips) for task_job in {task.job for task in held})
        raise no_file_is_there(clips, job.failures[0].message)

    def _num_workers(self) -> int:
        return sum(pool.num_ready for pool in self._pools)
