"""Searches for the best batch size of a teacher on this device, and stores the result.

Batches of noise are doubled until they are no longer faster or do not fit into memory. The result
is stored in the user's cache folder (`~/.cache/coat-distill`, $XDG_CACHE_HOME) by teacher version,
card and block length, so that later workers can use it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from manifests.streams.specs import TeacherSpec
from teachers.protocol import Teacher, extract_targets
from teachers.toolkit.batching import BatchBudget

log = logging.getLogger(__name__)

CLIP_SECONDS = 30.0
FASTER = 1.03
"""Minimum speed-up of a batch of twice the size that justifies its memory."""
LONGEST_TRIAL_S = 20.0
FILE = "batch_seconds.json"


def tune(teacher: Teacher, spec: TeacherSpec, *, device: str, most_seconds: float) -> None:
    """Sets a loaded teacher's `budget`, if it has one.

    Args:
        teacher: The loaded teacher.
        spec: Its version.
        device: See `Teacher.load`.
        most_seconds: Maximum audio of a batch: the length of a block.
    """
    budget: BatchBudget | None = getattr(teacher, "budget", None)
    if budget is None:
        return
    key = f"{spec.key} on {card(device)}, blocks of {most_seconds:g} s"
    known = _remembered().get(key)
    if known is None:
        known = search(teacher, spec, budget, most_seconds)
        _remember(key, known)
        log.warning("%s: batches of %.0f s on %s", spec.key, known, card(device))
    budget.seconds = known


def search(teacher: Teacher, spec: TeacherSpec, budget: BatchBudget, most_seconds: float) -> float:
    """The smallest batch, in seconds, that is about as fast as any."""
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.1, size=int(CLIP_SECONDS * spec.sample_rate)).astype(np.float32)
    _trial(teacher, budget, noise, CLIP_SECONDS)  # The first batch includes the device's start-up.
    best_seconds, best_speed, seconds = CLIP_SECONDS, 0.0, CLIP_SECONDS
    while seconds <= most_seconds:
        elapsed = _trial(teacher, budget, noise, seconds)
        if elapsed is None:
            break
        speed = seconds / elapsed
        if speed < FASTER * best_speed:
            break
        best_seconds, best_speed = seconds, speed
        if elapsed > LONGEST_TRIAL_S:
            break
        seconds *= 2
    return best_seconds


def card(device: str) -> str:
    """The name of the device, and its memory."""
    torch: Any = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"{platform.processor() or platform.machine()}"


def _trial(
    teacher: Teacher, budget: BatchBudget, noise: np.ndarray, seconds: float
) -> float | None:
    """Seconds that a batch takes; None if it does not fit into memory."""
    budget.seconds = seconds
    waves = [noise] * max(1, round(seconds / CLIP_SECONDS))
    began = time.perf_counter()
    extract_targets(teacher, waves, [""] * len(waves))
    return None if budget.seconds < seconds else time.perf_counter() - began


def _path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "coat-distill", FILE)


def _remembered() -> dict[str, float]:
    try:
        return dict(json.loads(_path().read_text()))
    except (OSError, ValueError):
        return {}


def _remember(key: str, seconds: float) -> None:
    # If the folder cannot be written, the next worker searches again.
    with contextlib.suppress(OSError):
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{FILE}.{os.getpid()}")
        written.write_text(json.dumps(_remembered() | {key: seconds}, indent=1, sort_keys=True))
        written.replace(path)
