"""Which worker does what next: the driver's bookkeeping between decoding and commit.

The driver holds references and small summaries; audio and targets stay in Ray's object store and
move from worker to worker. What goes first among what waits is `pipeline.build.queues`'s to say.

Whatever dies, nothing is lost: a dead worker's tasks are given to others (the one it was running is
taken apart clip by clip if that happens twice, so that only the guilty clip fails), and a shard
whose intermediate results went down with a node starts over.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import ray
from ray import exceptions

from manifests.cache.shards import Failure, Marker
from manifests.errors import UserError
from manifests.storage import Folder, cannot_write
from pipeline.build import pools
from pipeline.build.failure_rate import FailureRate
from pipeline.build.faults import (
    DEATHS_ALLOWED,
    LOST_WORKER,
    WRITE_ATTEMPTS,
    brief,
    is_final,
    worker_died,
)
from pipeline.build.messages import UNKNOWN_SECONDS, DecodeSummary, Extracted, ExtractSummary, cut
from pipeline.build.plan import ShardWork
from pipeline.build.pools import Pool, WorkerHandle
from pipeline.build.progress import ProgressListener
from pipeline.build.queues import Backlog
from pipeline.build.records import Block, ShardJob, Task
from pipeline.build.setup import TeacherSetup
from pipeline.config import BuildConfig

log = logging.getLogger(__name__)

FALSE_STARTS_ALLOWED = 3
"""Times that all workers started at once may die before one has loaded its teachers."""
GROW_EVERY_S = 3.0
BLOCKS_AHEAD = 8
"""Blocks per worker that are decoded or waiting for it."""


class Scheduler:
    """Runs the missing shards of a corpus through the teachers that lack them.

    Args:
        setups: The teachers.
        work: What is missing, in order.
        folders: Teacher -> folder of its shards.
        config: The build's own limits.
        memory_bytes: Decoded audio that may wait in the object store.
        watcher: Is told of every step.
    """

    def __init__(
        self,
        setups: Sequence[TeacherSetup],
        work: Iterator[ShardWork],
        folders: dict[str, Folder],
        config: BuildConfig,
        memory_bytes: float,
        watcher: ProgressListener,
    ) -> None:
        self._setups = {setup.name: setup for setup in setups}
        self._work: Iterator[ShardWork] | None = work
        self._folders = folders
        self._config = config
        self._watcher = watcher
        self._rates = sorted({setup.spec.sample_rate for setup in setups})
        self._bytes_per_second = 4 * sum(self._rates)
        uses_gpu = any(setup.resources.num_gpus for setup in setups)
        self._block_clips = config.block_clips or (64 if uses_gpu else 4)
        self._pools, self._decoders = pools.arrange(setups, config.decode)
        pools.check_fits(self._pools)
        self._backlog = Backlog(self._setups, memory_bytes)
        self._failure_rate = FailureRate(config.max_failure_rate, len(setups))
        self._running: dict[ray.ObjectRef, tuple[Task, Pool, WorkerHandle]] = {}
        self._jobs: set[ShardJob] = set()
        self._open_blocks = 0
        self._false_starts = 0
        self._wave = 1

    def run(self) -> None:
        """Until every shard is committed.

        Raises:
            UserError: the build cannot go on; the message says why and what to do.
        """
        grown_at = -GROW_EVERY_S
        while self._work is not None or self._jobs:
            if time.monotonic() - grown_at > GROW_EVERY_S:
                self._wave = pools.grow(self._pools) or self._wave
                grown_at = time.monotonic()
            self._open_shards()
            self._dispatch()
            self._collect_finished()
            self._watcher.tick()

    # What is to be done.

    def _open_shards(self) -> None:
        ahead = BLOCKS_AHEAD * max(1, *(len(pool.members) for pool in self._pools))
        while self._work is not None and self._open_blocks < ahead:
            following = next(self._work, None)
            if following is None:
                self._work = None
            else:
                self._open(following)

    def _open(self, work: ShardWork) -> None:
        job = ShardJob(
            work.number, work.ids, work.clips, list(work.teachers), undecoded=len(work.clips)
        )
        job.parts = {name: {} for name in work.teachers}
        self._jobs.add(job)
        limits = {"max_clips": self._block_clips, "max_seconds": self._config.block_seconds}
        for at, part in enumerate(cut(work.clips, **limits)):
            self._add_block(Block(job, at, part))

    def _add_block(self, block: Block) -> None:
        block.job.blocks.append(block)
        self._open_blocks += 1
        self._backlog.add(Task("decode", block.job, block))

    def _dispatch(self) -> None:
        for pool in self._pools:
            while (member := pool.free()) is not None:
                if member.tasks and self._backlog.extractions(pool) <= len(pool.members):
                    break
                task = self._backlog.next(pool, decodes=pool is self._decoders)
                if task is None:
                    break
                self._submit(task, pool, member)

    def _submit(self, task: Task, pool: Pool, member: WorkerHandle) -> None:
        job, block, actor = task.job, task.block, member.actor
        if task.kind == "commit":
            ref = actor.commit.remote(
                self._setups[task.teacher].spec,
                self._folders[task.teacher],
                job.number,
                job.ids,
                [clip.clip_id for clip in job.clips],
                job.failures,
                job.elapsed[task.teacher],
                *(part for _, part in sorted(job.parts[task.teacher].items())),
            )
        elif task.kind == "decode":
            assert block is not None
            seconds = sum(clip.duration or UNKNOWN_SECONDS for clip in block.clips)
            block.num_bytes = int(seconds * self._bytes_per_second)
            self._backlog.held_bytes += block.num_bytes
            task.payload, ref = actor.decode.options(num_returns=2).remote(
                block.clips, self._rates, self._config.max_clip_seconds
            )
        else:
            assert block is not None
            task.payload, ref = actor.extract.options(num_returns=2).remote(
                task.teacher, block.audio, task.position
            )
        member.tasks.append(task)
        self._running[ref] = (task, pool, member)

    # What has been done.

    def _collect_finished(self) -> None:
        starting = {ref: pool for pool in self._pools for ref in pool.starting}
        refs = [*self._running, *starting]
        if not refs:
            time.sleep(0.2)
            return
        done, _ = ray.wait(refs, timeout=1.0, fetch_local=False)
        if done:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        for ref in done:
            if ref in starting:
                self._on_worker_ready(starting[ref], ref)
            elif ref in self._running:
                self._on_task_done(ref)

    def _on_worker_ready(self, pool: Pool, ref: ray.ObjectRef) -> None:
        try:
            seconds = pool.started(ref)
        except exceptions.RuntimeEnvSetupError as error:
            raise UserError(f"the cluster cannot set up workers: {brief(error)}") from None
        except LOST_WORKER as error:
            self._false_starts += 1
            if self._false_starts >= FALSE_STARTS_ALLOWED * self._wave:
                raise UserError(
                    f"workers die while they load their teachers ({brief(error)}); they may need "
                    "more memory: set resources.memory_gb, or run fewer teachers at once"
                ) from None
            return
        except UserError as error:
            raise UserError(brief(error)) from None
        self._false_starts = 0
        self._watcher.workers(self._num_workers(), seconds)

    def _num_workers(self) -> int:
        return sum(member.ready for pool in self._pools for member in pool.members)

    def _on_task_done(self, ref: ray.ObjectRef) -> None:
        task, pool, member = self._running[ref]
        try:
            result = ray.get(ref)
        except LOST_WORKER as error:
            self._on_worker_died(pool, member, error)
            return
        except exceptions.ObjectLostError:
            self._forget(ref)
            self._restart_shard(task.job)
            return
        except OSError as error:
            self._forget(ref)
            self._retry_write(task, error)
            return
        except UserError as error:
            raise UserError(brief(error)) from None
        self._forget(ref)
        if task.job.abandoned:
            return
        if task.kind == "decode":
            self._decoded(task, result)
        elif task.kind == "extract":
            self._extracted(task, result)
        else:
            self._committed(task, result)

    def _forget(self, ref: ray.ObjectRef) -> None:
        task, _, member = self._running.pop(ref)
        if task in member.tasks:
            member.tasks.remove(task)

    def _decoded(self, task: Task, summary: DecodeSummary) -> None:
        job, block = task.job, task.block
        assert block is not None
        self._backlog.held_bytes += summary.num_bytes - block.num_bytes
        block.num_bytes = summary.num_bytes
        self._through_decoding(block, summary.failures)
        if not summary.num_clips:
            self._release(block)
            return
        block.audio, task.payload = task.payload, None
        block.waiting = Counter({name: summary.num_clips for name in job.teachers})
        for name in job.teachers:
            self._backlog.add(Task("extract", job, block, name))

    def _through_decoding(self, block: Block, failures: Sequence[Failure]) -> None:
        job = block.job
        job.undecoded -= len(block.clips)
        job.failures += failures
        for name in job.teachers:
            self._note(job, name, len(failures), 0.0, failures)
            self._commit_if_complete(job, name)

    def _extracted(self, task: Task, summary: ExtractSummary) -> None:
        job, block, name = task.job, task.block, task.teacher
        assert block is not None
        assert task.payload is not None
        job.parts[name][block.number, block.first + (task.position or 0)] = task.payload
        job.elapsed[name] += summary.elapsed
        self._backlog.measured(name, summary)
        self._through_teacher(block, name, summary.num_clips, summary.seconds, summary.failures)

    def _through_teacher(
        self, block: Block, name: str, clips: int, seconds: float, failures: Sequence[Failure]
    ) -> None:
        job = block.job
        job.extracted[name] += clips
        self._note(job, name, clips, seconds, failures)
        block.waiting[name] -= clips
        if not any(block.waiting.values()):
            self._release(block)
        self._commit_if_complete(job, name)

    def _commit_if_complete(self, job: ShardJob, name: str) -> None:
        if job.complete(name):
            self._backlog.add(Task("commit", job, teacher=name))

    def _committed(self, task: Task, marker: Marker) -> None:
        job = task.job
        job.teachers.remove(task.teacher)
        del job.parts[task.teacher]
        self._watcher.committed(task.teacher, marker)
        if not job.teachers:
            self._jobs.discard(job)

    def _release(self, block: Block) -> None:
        """Lets go of a block's audio, once all teachers have heard it."""
        block.job.blocks.remove(block)
        block.audio = None
        self._backlog.held_bytes -= block.num_bytes
        self._open_blocks -= 1

    # What has gone wrong.

    def _note(
        self, job: ShardJob, name: str, clips: int, seconds: float, failures: Sequence[Failure]
    ) -> None:
        """Counts clips that are through a teacher."""
        job.heard[name] += seconds
        job.failed[name] += len(failures)
        self._watcher.heard(name, clips, seconds, len(failures))
        self._failure_rate.add(clips, failures)

    def _on_worker_died(self, pool: Pool, member: WorkerHandle, error: Exception) -> None:
        """A worker died: others take its tasks; the one it was running is under suspicion."""
        log.warning("a worker died (%s); its tasks go to others", brief(error))
        tasks = pool.drop(member)
        for ref in [ref for ref, (_, _, owner) in self._running.items() if owner is member]:
            del self._running[ref]
        self._watcher.workers(self._num_workers(), 0.0)
        for at, task in enumerate(tasks):
            if task.job.abandoned:
                continue
            task.payload = None
            if task.kind == "decode":
                assert task.block is not None
                self._backlog.held_bytes -= task.block.num_bytes
                task.block.num_bytes = 0
            task.deaths += at == 0
            if task.deaths < DEATHS_ALLOWED or task.kind == "commit":
                self._backlog.add(task)
            else:
                self._split_task(task)

    def _split_task(self, task: Task) -> None:
        """A task that costs workers again and again: clip by clip, then only the guilty fails."""
        job, block = task.job, task.block
        assert block is not None
        if task.kind == "decode":
            if len(block.clips) > 1:
                self._release(block)
                for at, clip in enumerate(block.clips):
                    self._add_block(Block(job, block.number, [clip], first=at))
            else:
                self._through_decoding(block, [worker_died(block.clips[0].clip_id, "decode")])
                self._release(block)
            return
        num_clips = block.waiting[task.teacher]
        if task.position is None and num_clips > 1:
            for at in range(num_clips):
                self._backlog.add(Task("extract", job, block, task.teacher, position=at))
            return
        assert block.audio is not None
        try:
            decoded = ray.get(block.audio)
        except exceptions.ObjectLostError:
            self._restart_shard(job)
            return
        failure = worker_died(decoded.clip_ids[task.position or 0], "extract")
        part = block.number, block.first + (task.position or 0)
        job.parts[task.teacher][part] = ray.put(Extracted([], [failure], {}))
        self._through_teacher(block, task.teacher, 1, 0.0, [failure])

    def _restart_shard(self, job: ShardJob) -> None:
        """Results of a shard were lost with a node: all that is not committed is done again."""
        if job.abandoned:
            return
        log.warning("results of shard %d were lost with a node; it starts over", job.number)
        job.abandoned = True
        self._jobs.discard(job)
        for block in list(job.blocks):
            self._release(block)
        for name in job.teachers:
            clips = job.extracted[name] + len(job.failures)
            self._failure_rate.take_back(clips, job.failed[name])
            self._watcher.heard(name, -clips, -job.heard[name], -job.failed[name])
        self._open(ShardWork(job.number, job.ids, job.clips, job.teachers))

    def _retry_write(self, task: Task, error: OSError) -> None:
        task.attempts += 1
        if is_final(error) or task.attempts >= WRITE_ATTEMPTS:
            raise cannot_write(brief(error))
        log.warning("writing a shard failed (%s); trying again", brief(error))
        self._backlog.add(task)
