"""What a cache holds and what it lacks, from its commit markers alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.table import Table

from manifests import shards
from manifests.layout import Layout


@dataclass(slots=True, kw_only=True)
class TeacherStatus:
    """One version of one teacher over one corpus."""

    teacher: str
    """`NAME@FINGERPRINT`."""
    corpus: str
    clips: int
    """Of the corpus."""
    rows: int = 0
    missing: int = 0
    """Clips in shards not yet committed."""
    failures: Counter[str] = field(default_factory=Counter)
    """Error code -> clips."""
    audio_hours: float = 0.0
    cache_bytes: int = 0
    extract_seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every clip has targets or a recorded failure."""
        return not self.missing


def status(layout: Layout) -> list[TeacherStatus]:
    """Every teacher version over every corpus that it has been run on."""
    found = []
    for corpus_name in layout.corpora():
        corpus = layout.corpus(corpus_name)
        for spec in layout.teachers().values():
            folder = layout.shards(spec, corpus_name)
            line = TeacherStatus(teacher=spec.key, corpus=corpus_name, clips=corpus.num_clips)
            for marker in shards.read_markers(folder):
                line.rows += marker.rows
                line.failures.update(marker.failures)
                line.audio_hours += marker.seconds / 3600
                line.cache_bytes += marker.data_bytes
                line.extract_seconds += marker.extract_seconds
            line.missing = corpus.num_clips - line.rows - line.failures.total()
            if line.missing < line.clips or len(layout.corpora()) == 1:
                found.append(line)
    return found


def table(lines: list[TeacherStatus]) -> Table:
    """The same for people."""
    shown = Table("teacher", "corpus", title="Teacher cache")
    for heading in ("clips", "with targets", "failed", "missing", "hours", "MB", "MB per hour"):
        shown.add_column(heading, justify="right")
    shown.add_column("failures by reason")
    for line in lines:
        megabytes = line.cache_bytes / 1e6
        shown.add_row(
            line.teacher,
            line.corpus,
            f"{line.clips:,}",
            f"{line.rows:,}",
            f"{line.failures.total():,}",
            f"{line.missing:,}",
            f"{line.audio_hours:.3f}",
            f"{megabytes:,.1f}",
            f"{megabytes / line.audio_hours:,.1f}" if line.audio_hours else "-",
            ", ".join(f"{error} {count}" for error, count in line.failures.most_common()) or "-",
        )
    return shown
