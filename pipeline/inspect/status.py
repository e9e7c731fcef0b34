"""Summarises the content of a cache and the missing clips, using only the commit markers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from manifests.cache.layout import Layout
from manifests.cache.totals import totals_of_all


@dataclass(slots=True, kw_only=True)
class TeacherStatus:
    """One version of one teacher over one corpus."""

    teacher: str
    """`NAME@FINGERPRINT`."""
    corpus: str
    clips: int
    """Clips of the corpus."""
    rows: int = 0
    missing: int = 0
    """Clips in shards not yet committed."""
    failures: Counter[str] = field(default_factory=Counter)
    """Error code -> clips."""
    warnings: Counter[str] = field(default_factory=Counter)
    """Fault of the audio -> number of clips that have targets despite it (`docs/audio.md`)."""
    audio_hours: float = 0.0
    cache_bytes: int = 0
    extract_seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every clip has targets or a recorded failure."""
        return not self.missing


def status(layout: Layout) -> list[TeacherStatus]:
    """Lists every teacher version over every corpus that it has been run on.

    The default version of a teacher, which readers get, is also listed over the corpora that only
    other versions have been run on: readers find nothing there.
    """
    corpora = {name: layout.corpus(name) for name in layout.corpora()}
    places = [(name, spec) for name in corpora for spec in layout.teachers().values()]
    totals = totals_of_all([layout.shards(spec, name) for name, spec in places])
    # With one corpus, all versions are listed.
    default = {spec.key for spec in layout.current().values()} if len(corpora) > 1 else set()
    run_on = {
        (spec.name, name)
        for (name, spec), total in zip(places, totals, strict=True)
        if total.shards
    }
    lines = []
    for (name, spec), total in zip(places, totals, strict=True):
        is_read = spec.key in default and (spec.name, name) in run_on
        if total.shards or is_read or len(corpora) == 1:
            lines.append(
                TeacherStatus(
                    teacher=spec.key,
                    corpus=name,
                    clips=corpora[name].num_clips,
                    rows=total.rows,
                    missing=corpora[name].num_clips - total.clips,
                    failures=total.failures,
                    warnings=total.warnings,
                    audio_hours=total.seconds / 3600,
                    cache_bytes=total.data_bytes,
                    extract_seconds=total.extract_seconds,
                )
            )
    return lines


def table(lines: list[TeacherStatus]) -> Table:
    """Formats the lines as a table of 80 columns; the corpus is shown only if there are several."""
    several = len({line.corpus for line in lines}) > 1
    shown = Table(title="Teacher cache", box=box.SIMPLE_HEAD, padding=0, caption_justify="left")
    shown.add_column("teacher", no_wrap=True)
    if several:
        shown.add_column("corpus")
    for heading in ("clips", "targets", "failed", "missing", "hours", "MB", "MB/h"):
        shown.add_column(heading, justify="right", no_wrap=True)
    reasons = []
    for line in lines:
        megabytes = line.cache_bytes / 1e6
        cells = [
            f"{line.clips:,}",
            f"{line.rows:,}",
            f"{line.failures.total():,}",
            f"{line.missing:,}",
            f"{line.audio_hours:,.2f}",
            f"{megabytes:,.1f}",
            f"{megabytes / line.audio_hours:,.1f}" if line.audio_hours else "-",
        ]
        shown.add_row(line.teacher, *([line.corpus] if several else []), *cells)
        what = f"{line.teacher} on {line.corpus}" if several else line.teacher
        counts = ", ".join(f"{error} {count:,}" for error, count in line.failures.most_common())
        reasons += [f"{what} failed: {counts}"] if counts else []
        counts = ", ".join(f"{kind} {count:,}" for kind, count in line.warnings.most_common())
        reasons += [f"{what} audio: {counts}"] if counts else []
    shown.caption = "\n".join(reasons) or None
    return shown
