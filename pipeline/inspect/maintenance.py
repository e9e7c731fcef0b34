"""Growing old with a cache: which versions it has, dropping one, dropping what nothing names."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from manifests.cache import shards
from manifests.cache.layout import Layout
from manifests.cache.shards import Marker
from manifests.storage import TEMPORARY
from manifests.streams.specs import TeacherSpec
from pipeline.inspect.verify import QUARANTINE


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of one teacher."""

    teacher: str
    """`NAME@FINGERPRINT`."""
    newest: bool
    created: str
    settings: dict
    streams: list[str]
    clips: int
    """With targets, over all corpora."""
    cache_bytes: int


def versions(layout: Layout) -> list[Version]:
    """Every version, oldest first."""
    newest = layout.newest()
    found = []
    for spec in layout.teachers().values():
        clips = size = 0
        for corpus in layout.corpora():
            folder = layout.shards(spec, corpus)
            size += sum(folder.child("data").sizes().values())
            clips += sum(marker.rows for marker in shards.read_markers(folder))
        found.append(
            Version(
                teacher=spec.key,
                newest=newest[spec.name].key == spec.key,
                created=spec.created,
                settings=spec.settings,
                streams=[f"{stream.name} ({stream.codec})" for stream in spec.streams],
                clips=clips,
                cache_bytes=size,
            )
        )
    return found


def remove(layout: Layout, spec: TeacherSpec) -> int:
    """Deletes a version, markers first so that a kill leaves nothing that looks complete.

    Returns:
        Bytes freed.
    """
    folder = layout.root.child("teachers").child(spec.key)
    freed = 0
    for corpus in folder.folders():
        freed += sum(folder.child(corpus).child("data").sizes().values())
        if folder.child(corpus).exists("markers"):
            folder.child(corpus).child("markers").delete_all()
    folder.delete_all()
    return freed


def compact(layout: Layout, *, older_than_hours: float) -> tuple[int, int]:
    """Deletes data that no marker names, what kills left behind, and quarantined shards.

    Args:
        older_than_hours: Younger files are left alone: a running build writes data before markers.

    Returns:
        Files and bytes freed.
    """
    before = time.time() - older_than_hours * 3600
    files = size = 0
    for spec in layout.teachers().values():
        for corpus in layout.corpora():
            folder = layout.shards(spec, corpus)
            named = set()
            for marker in shards.read_markers(folder):
                named |= {f"data/{marker.data}", f"failures/{marker.failures_data}"}
            for part in ("data", "failures", "markers", QUARANTINE):
                for name, (bytes_, modified) in folder.child(part).everything().items():
                    place = f"{part}/{name}"
                    keep = part == "markers" or place in named
                    if modified < before and (name.startswith(TEMPORARY) or not keep):
                        folder.delete(place)
                        files, size = files + 1, size + bytes_
    return files, size


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Clips of a corpus that have targets by exactly these teachers."""

    corpus: str
    teachers: tuple[str, ...]
    """Names of the newest versions."""
    clips: int
    holes: dict[str, int]
    """`TEACHER: reason` -> clips."""


def coverage(layout: Layout) -> list[Coverage]:
    """The clip x teacher matrix in sums, the fullest rows first.

    Reads markers and failures, no targets.
    """
    newest = layout.newest()
    found = []
    for name in layout.corpora():
        corpus = layout.corpus(name)
        folders = {teacher: layout.shards(spec, name) for teacher, spec in newest.items()}
        failing: dict[str, dict[int, Marker | None]] = {
            teacher: {
                marker.shard: marker if marker.failures else None
                for marker in shards.read_markers(folder)
            }
            for teacher, folder in folders.items()
        }
        patterns: Counter[tuple[str, ...]] = Counter()
        holes: dict[tuple[str, ...], Counter[str]] = {}
        for number, size in enumerate(corpus.shard_sizes()):
            absent: dict[str, dict[str, str]] = {}
            whole = []
            for teacher, folder in folders.items():
                if number not in failing[teacher]:
                    continue
                whole.append(teacher)
                marker = failing[teacher][number]
                for failure in shards.read_failures(folder, marker) if marker else ():
                    reason = f"{failure.stage} {failure.error}"
                    absent.setdefault(failure.clip_id, {})[teacher] = reason
            unrun = {teacher: "not run" for teacher in folders if teacher not in whole}
            for failed in [*absent.values(), *([{}] * (size - len(absent)))]:
                reasons = failed | unrun
                pattern = tuple(teacher for teacher in folders if teacher not in reasons)
                patterns[pattern] += 1
                holes.setdefault(pattern, Counter()).update(
                    f"{teacher}: {reason}" for teacher, reason in reasons.items()
                )
        found += [
            Coverage(corpus=name, teachers=pattern, clips=clips, holes=dict(holes[pattern]))
            for pattern, clips in sorted(patterns.items(), key=lambda item: -len(item[0]))
        ]
    return found
