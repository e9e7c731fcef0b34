"""What can go wrong with workers and writes, in the scheduler's words."""

from __future__ import annotations

import errno

from ray import exceptions

from manifests.cache.shards import Failure
from manifests.errors import UserError

LOST_WORKER = (
    exceptions.RayActorError,
    exceptions.OutOfMemoryError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
)
"""A worker process, or its node, is gone."""
DEATHS_ALLOWED = 2
"""A task that has cost this many workers is split, or its only clip is recorded as a failure."""
WRITE_ATTEMPTS = 3
FINAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Write errors that no retry mends."""


def is_final(error: OSError) -> bool:
    """Whether a failed write is not worth another try."""
    # Ray's stand-in for a remote error has the class of its cause, but not its number.
    return getattr(error, "cause", error).errno in FINAL_ERRORS


def worker_died(clip_id: str, stage: str) -> Failure:
    """The record of a clip that no worker survives."""
    return Failure(
        clip_id=clip_id,
        stage=stage,
        error="worker-died",
        message=f"the worker process died {DEATHS_ALLOWED} times on this clip alone",
    )


def brief(error: BaseException) -> str:
    """The last words of an error that came from a worker, without its remote traceback."""
    cause = getattr(error, "cause", None)
    text = str(cause if isinstance(cause, BaseException) else error)
    return text.strip().splitlines()[-1] if not isinstance(cause, UserError) else text
