"""Kinds of failures in a build, and the number of retries for each."""

from __future__ import annotations

import errno

from manifests.cache.shards import Failure

STRIKES_ALLOWED = 2
"""A task that has cost this many workers is split, or its only clip is recorded as a failure."""
COMMIT_STRIKES_ALLOWED = 3
"""A commit that has cost this many workers ends the build."""
LOSSES_ALLOWED = 8
"""Times that a task may lose its worker through no fault of its own before its shard is left."""
LONGEST_PAUSE_S = 30.0
FINAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Write errors that a retry cannot fix."""
SICK_PROCESS = (
    "CUDA error",
    "CUDA driver",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "device-side assert",
    "illegal memory access",
    "uncorrectable ECC",
    "NVML",
)
"""Words of errors after which a process can compute nothing more on its GPU."""


class SickProcess(Exception):
    """Raised in a worker process that must be replaced."""


def is_sick(error: BaseException) -> bool:
    """Whether an expert's error means that its process can no longer be used."""
    return type(error).__name__ == "AcceleratorError" or any(
        words.lower() in str(error).lower() for words in SICK_PROCESS
    )


def is_final(error: OSError) -> bool:
    """Whether a failed write is not worth another try."""
    return error.errno in FINAL_ERRORS


def pause(attempts: int) -> float:
    """Seconds before the next try: 1, 2, 4, ... up to `LONGEST_PAUSE_S`."""
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
