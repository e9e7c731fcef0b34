"""Kinds of failures in a build, and the number of retries for each."""

from __future__ import annotations

import errno

from manifests.cache.shards import Failure

STRIKES_ALLOWED = 2
"""A task that has killed this many workers is split, or its only clip is recorded as failed."""
COMMIT_STRIKES_ALLOWED = 3
"""A commit that has killed this many workers stops the build."""
LOSSES_ALLOWED = 8
"""Number of workers that a task may lose for other reasons before its shard is left to a later
build."""
LONGEST_PAUSE_S = 30.0
FINAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Write errors that a retry cannot fix."""
BROKEN_PROCESS = (
    "CUDA error",
    "CUDA driver",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "device-side assert",
    "illegal memory access",
    "uncorrectable ECC",
    "NVML",
)
"""Phrases of errors after which a process can no longer use its GPU."""


class BrokenProcess(Exception):
    """Raised in a worker process that must be replaced."""


def is_broken(error: BaseException) -> bool:
    """Whether an expert's error means that its process can no longer be used."""
    return type(error).__name__ == "AcceleratorError" or any(
        words.lower() in str(error).lower() for words in BROKEN_PROCESS
    )


def is_final(error: OSError) -> bool:
    """Whether retrying a failed write is useless."""
    return error.errno in FINAL_ERRORS


def pause(attempts: int) -> float:
    """Seconds before the next attempt: 1, 2, 4, ... up to `LONGEST_PAUSE_S`."""
    return min(LONGEST_PAUSE_S, 2.0 ** (attempts - 1))


def worker_failure(clip_id: str, stage: str, *, timed_out: bool) -> Failure:
    """The failure record of a clip that kills or blocks every worker."""
    what = "did not finish within the time limit" if timed_out else "died"
    return Failure(
        clip_id=clip_id,
        stage=stage,
        error="timed-out" if timed_out else "worker-died",
        message=f"the worker process {what} {STRIKES_ALLOWED} times on this clip alone",
        cause="worker",
    )


def brief(error: BaseException) -> str:
    """The last line of an error's text."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[-1]
