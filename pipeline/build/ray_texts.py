"""Phrases in Ray's error messages that identify the cause of a lost worker (Ray 2.60).

Ray raises the same exception if a worker's process crashed, its node is gone or the process was
killed on purpose; only the text distinguishes them. `tests/test_library_internals.py` looks for
each phrase in the installed Ray and fails when a new version words it otherwise.
"""

from __future__ import annotations

from pipeline.build.backend import LossCause

LOW_MEMORY = "low on memory"
NODE_DIED = "node has died"
NODE_WAS = "node was"
"""Matches `the node was terminated` and `its node was preempted`."""
KILLED_BY_US = "killed by `ray.kill`"
OWNER_DIED = "its owner has died"
"""Only the driver starts workers, so this means that its own node counts as lost."""
PROCESS_DIED = "worker process has died"
INTENDED = "INTENDED"
"""Part of the exit types of processes that ended on purpose."""


def cause_from_text(text: str) -> LossCause | None:
    """Derives the cause of a lost worker from the text of Ray's error."""
    if LOW_MEMORY in text:
        return "memory"
    if NODE_DIED in text or NODE_WAS in text:
        return "node"
    if KILLED_BY_US in text:
        return "killed"
    # The text for a process that ended unexpectedly.
    return "process" if PROCESS_DIED in text and INTENDED not in text else None
