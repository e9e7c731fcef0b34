"""Lists versions and coverage of a cache, and removes data that is not needed."""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich import box
from rich.table import Table

from manifests.atomic_file import TEMPORARY
from manifests.cache import marker_index, shards
from manifests.cache.layout import Layout
from manifests.cache.shard_files import (
    DATA,
    DATA_NAME,
    FAILURES,
    INDEX,
    MARKERS,
    QUARANTINE,
    data_file,
    failures_file,
)
from manifests.cache.totals import totals_of_all
from manifests.storage import Folder
from manifests.streams.specs import TeacherSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of one teacher."""

    teacher: str
    """`NAME@FINGERPRINT`."""
    newest: bool
    """Whether it is the newest version of its teacher."""
    used: bool
    """Whether readers get it if they request the teacher by name."""
    why: str
    """The reason why it is used, or its progress."""
    created: str
    family: str
    revision: int
    """Revision of the family's adapter."""
    settings: dict
    streams: list[str]
    clips: int
    """Clips with targets, over all corpora."""
    cache_bytes: int


def versions(layout: Layout) -> list[Version]:
    """Lists every version, oldest first."""
    current, specs, corpora = layout.current_versions(), layout.teachers(), layout.corpora()
    folders = [layout.shards(spec, corpus) for spec in specs.values() for corpus in corpora]
    totals = iter(totals_of_all(folders))
    lines = []
    for spec in specs.values():
        parts = list(itertools.islice(totals, len(corpora)))
        choice = current[spec.name]
        used = choice.spec.key == spec.key
        lines.append(
            Version(
                teacher=spec.key,
                newest=choice.newest.key == spec.key,
                used=used,
                why=choice.why if used else choice.progress[spec.key],
                created=spec.created,
                family=spec.family,
                revision=spec.revision,
                settings=spec.settings,
                streams=[f"{stream.name} ({stream.codec})" for stream in spec.streams],
                clips=sum(part.rows for part in parts),
                cache_bytes=sum(part.data_bytes for part in parts),
            )
        )
    return lines


def versions_table(lines: list[Version]) -> Table:
    """Renders the versions as a table."""
    shown = Table(title="Versions", box=box.SIMPLE_HEAD, padding=0)
    for heading in ("teacher", "readers get", "made", "clips", "MB"):
        right = heading in ("clips", "MB")
        shown.add_column(heading, justify="right" if right else "left", no_wrap=True)
    shown.add_column("family, streams and settings", overflow="fold")
    for line in lines:
        settings = [f"{key}={value}" for key, value in line.settings.items()]
        shown.add_row(
            line.teacher,
            f"used: {line.why}" if line.used else line.why,
            line.created[:10],
            f"{line.clips:,}",
            f"{line.cache_bytes / 1e6:,.1f}",
            ", ".join([f"{line.family} (revision {line.revision})", *line.streams, *settings]),
        )
    return shown


def remove(layout: Layout, spec: TeacherSpec) -> int:
    """Deletes a version, markers first, so that a killed process leaves nothing that looks
    complete.

    Returns:
        Bytes freed.
    """
    if layout.chosen(spec.name) == spec.key:
        layout.use_newest_complete(spec.name)
    folder = layout.root.child("teachers").child(spec.key)
    freed = sum(_remove_targets(folder.child(corpus)) for corpus in folder.folders())
    folder.delete_all()
    return freed


def remove_corpus(layout: Layout, corpus: str) -> int:
    """Deletes the targets of a corpus in every version, and then the cache's copy of the corpus.

    After a killed process, the same call deletes the rest.

    Returns:
        Bytes freed.
    """
    versions = layout.root.child("teachers")
    freed = 0
    for key in versions.folders():
        if corpus in versions.child(key).folders():
            freed += _remove_targets(versions.child(key).child(corpus))
    layout.root.child("corpora").child(corpus).delete_all()
    return freed


def _remove_targets(folder: Folder) -> int:
    """Deletes the targets of one version for one corpus, markers first."""
    freed = sum(folder.child(DATA).sizes().values())
    if folder.exists(MARKERS):
        folder.child(MARKERS).delete_all()
    folder.delete_all()
    return freed


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """The result of `compact`."""

    files: int
    """Number of deleted files."""
    freed_bytes: int
    young_files: int
    """Number of unneeded files that are kept for now."""
    young_bytes: int
    indexes: int
    """Number of files of the marker index that were written."""


def compact(layout: Layout, *, older_than_hours: float) -> Compacted:
    """Deletes data that no marker refers to, temporary files of killed jobs, and quarantined
    shards.

    A reader that was opened before a shard was replaced still reads the old data. The age of such a
    file therefore counts from the replacement of its shard's marker, the age of a quarantined file
    from the time it was set aside, and the age of other files from their last change. Then updates
    the marker index; where that fails, a warning says so, because the index only saves time.

    Args:
        layout: The cache.
        older_than_hours: Files that were needed within this time are kept: open readers may need
            them, and a running build writes data before markers.
    """
    files = size = young_files = young_bytes = indexes = 0
    before = time.time_ns() - int(older_than_hours * 3600e9)
    folders: list[Folder] = []
    for spec in layout.teachers().values():
        for corpus in layout.corpora():
            folder = layout.shards(spec, corpus)
            folders.append(folder)
            # Files are listed before markers, so that files committed in between are not deleted.
            kept = {
                f"{part}/{name}": stamp
                for part in (DATA, FAILURES, MARKERS, INDEX, QUARANTINE)
                for name, stamp in folder.child(part).stamps(unfinished=True).items()
            }
            replaced = {number: when for number, (_, when) in shards.marker_stamps(folder).items()}
            named = set()
            for marker in marker_index.read_markers(folder):
                named |= {data_file(marker.data), failures_file(marker.failures_data)}
            for place, (bytes_, changed) in kept.items():
                since = _not_needed_since(place, changed, named, replaced)
                if since is None:
                    continue
                if since < before:
                    folder.delete(place)
                    files, size = files + 1, size + bytes_
                else:
                    young_files, young_bytes = young_files + 1, young_bytes + bytes_
    # A full disk has room for the index only after everything is deleted.
    for folder in folders:
        try:
            indexes += marker_index.refresh(folder)
        except OSError as error:
            log.warning("the marker index of %s was not written: %s", folder.uri, error)
    return Compacted(
        files=files,
        freed_bytes=size,
        young_files=young_files,
        young_bytes=young_bytes,
        indexes=indexes,
    )


def _not_needed_since(
    place: str, changed: int, named: set[str], replaced: Mapping[int, int]
) -> int | None:
    """Returns when a file stopped being needed, in ns since 1970; None if it is needed.

    Args:
        place: Folder and name.
        changed: The modification time of the file.
        named: Places that markers refer to.
        replaced: Shard -> modification time of its current marker.
    """
    part, _, name = place.partition("/")
    if name.startswith(TEMPORARY):
        return changed
    if part == QUARANTINE:
        stated = re.match(r"(\d{8}T\d{6})Z-", name)
        if stated is None:
            return changed
        moved = datetime.strptime(stated[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        return int(moved.timestamp()) * 10**9
    if part not in (DATA, FAILURES) or place in named or not DATA_NAME.fullmatch(name):
        return None
    return max(changed, replaced.get(int(name.partition("-")[0]), 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Clips of a corpus that have targets from exactly these teachers."""

    corpus: str
    teachers: tuple[str, ...]
    """Names of the teachers; each in the version that readers get."""
    clips: int
    holes: dict[str, int]
    """`TEACHER: reason` -> clips."""


def coverage(layout: Layout) -> list[Coverage]:
    """Summarises the matrix of clips and teachers, the fullest rows first.

    Reads markers and failures, but no targets.
    """
    current = layout.current()
    lines = []
    for name in layout.corpora():
        tally = _Tally(tuple(current))
        markers = {
            teacher: marker_index.read_markers(layout.shards(spec, name))
            for teacher, spec in current.items()
        }
        ahead = {teacher: next(those, None) for teacher, those in markers.items()}
        for number, size in enumerate(layout.corpus(name).shard_sizes()):
            absent: defaultdict[str, dict[str, str]] = defaultdict(dict)
            unrun: dict[str, str] = {}
            for teacher, those in markers.items():
                marker = ahead[teacher]
                if marker is None or marker.shard != number:
                    unrun[teacher] = "not run"
                    continue
                for failure in marker.failed:
                    absent[failure.clip_id][teacher] = f"{failure.stage} {failure.error}"
                ahead[teacher] = next(those, None)
            for failed in absent.values():
                tally.add(failed | unrun, 1)
            if size > len(absent):
                tally.add(unrun, size - len(absent))
        lines += [
            Coverage(corpus=name, teachers=pattern, clips=clips, holes=dict(tally.holes[pattern]))
            for pattern, clips in sorted(tally.clips.items(), key=lambda item: -len(item[0]))
        ]
    return lines


@dataclass(slots=True)
class _Tally:
    """Counts clips by the teachers that have targets for them."""

    teachers: tuple[str, ...]
    clips: Counter[tuple[str, ...]] = field(default_factory=Counter)
    holes: defaultdict[tuple[str, ...], Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )

    def add(self, reasons: Mapping[str, str], clips: int) -> None:
        """Counts clips without targets from the teachers in `reasons`."""
        pattern = tuple(teacher for teacher in self.teachers if teacher not in reasons)
        self.clips[pattern] += clips
        for teacher, reason in reasons.items():
            self.holes[pattern][f"{teacher}: {reason}"] += clips


def coverage_table(lines: list[Coverage]) -> Table:
    """Renders the coverage as a table."""
    shown = Table("corpus", "clips", "targets by", "holes", title="Clips by teachers")
    for line in lines:
        teachers = ", ".join(line.teachers) or "none"
        shown.add_row(line.corpus, f"{line.clips:,}", teachers, _describe_holes(line) or "-")
    return shown


def _describe_holes(line: Coverage) -> str:
    """Lists reasons with the teachers that have them: `all` if no teacher has targets."""
    by_reason: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for hole, clips in sorted(line.holes.items()):
        teacher, _, reason = hole.partition(": ")
        by_reason[reason, clips].append(teacher)
    absent = {hole.partition(": ")[0] for hole in line.holes}
    parts = []
    for (reason, clips), teachers in by_reason.items():
        is_all = not line.teachers and absent == set(teachers)
        parts.append(f"{'all' if is_all else ', '.join(teachers)}: {reason} ({clips:,})")
    return "; ".join(parts)
