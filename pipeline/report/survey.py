"""Computes the totals of a cache from commit markers and durations, without reading targets.

Commit markers contain rows, failures, bytes, times and sums per stream. They are read from the
marker index, a few files per teacher (`manifests.cache.marker_index`).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow.parquet as pq

from manifests.cache import marker_index, shards
from manifests.cache.layout import Layout
from manifests.cache.shards import Failure, Marker
from manifests.cache.stream_sums import Sums
from manifests.cache.totals import Totals
from manifests.clips import likely_durations
from manifests.corpus.corpus import Corpus
from manifests.corpus.corpus_index import Part
from manifests.storage import Folder, in_parallel
from manifests.streams.specs import TeacherSpec

FAILED_SHARDS = 64
"""Number of random shards per teacher and corpus whose failures are read for examples."""
EXAMPLES = 4
"""Number of examples per teacher and reason."""
POINTS = 80
"""Maximum number of points of the throughput curve."""


@dataclass(slots=True, kw_only=True)
class TeacherSurvey(Totals):
    """The totals of one version of a teacher over one corpus, with data for plots."""

    spec: TeacherSpec
    corpus: str
    corpus_clips: int
    failed_shards: list[int] = field(default_factory=list)
    commits: list[tuple[float, float, float]] = field(default_factory=list)
    """(finished, as seconds since 1970; audio seconds; worker seconds) of every shard, by time."""
    sums: dict[str, Sums] = field(default_factory=dict)
    """Stream name -> sums over all rows."""

    @property
    def missing(self) -> int:
        """Number of clips in shards that are not committed."""
        return self.corpus_clips - self.rows - self.failures.total()

    def add(self, marker: Marker) -> None:
        """Adds one shard."""
        Totals.add(self, marker)
        if marker.failures:
            self.failed_shards.append(marker.shard)
        finished = datetime.fromisoformat(marker.finished).timestamp()
        self.commits.append((finished, marker.seconds, marker.extract_seconds))


def survey(layout: Layout) -> list[TeacherSurvey]:
    """Surveys every version of every teacher over every corpus it was run on, oldest first."""
    surveys = []
    for name in layout.corpora():
        clips = layout.corpus(name).num_clips
        for spec in layout.teachers().values():
            line = TeacherSurvey(spec=spec, corpus=name, corpus_clips=clips)
            for segment in marker_index.read(layout.shards(spec, name), sums=True):
                for marker in segment.markers:
                    line.add(marker)
                for stream, sums in segment.sums.items():
                    line.sums.setdefault(stream, Sums.zero(spec.stream(stream).dim)).add(sums)
            line.commits.sort()
            if line.shards:
                surveys.append(line)
    return surveys


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One reason for failures of one teacher."""

    teacher: str
    corpus: str
    error: str
    clips: int
    examples: tuple[Failure, ...]


def reasons(layout: Layout, surveys: list[TeacherSurvey], seed: int) -> list[Reason]:
    """Counts failures by teacher and reason, most frequent first, with examples.

    A teacher of which several versions were run is named with its fingerprint.
    """
    versions = Counter(key.partition("@")[0] for key in {line.spec.key for line in surveys})
    lines = []
    for line in surveys:
        folder = layout.shards(line.spec, line.corpus)
        numbers = line.failed_shards
        chosen = random.Random(seed).sample(numbers, min(FAILED_SHARDS, len(numbers)))
        examples: defaultdict[str, list[Failure]] = defaultdict(list)

        def failures(number: int, folder: Folder = folder) -> list[Failure]:
            return shards.read_failures(folder, shards.read_marker(folder, number))

        for shard in in_parallel(failures, sorted(chosen)):
            for failure in shard:
                if len(examples[failure.error]) < EXAMPLES:
                    examples[failure.error].append(failure)
        lines += [
            Reason(
                teacher=line.spec.key if versions[line.spec.name] > 1 else line.spec.name,
                corpus=line.corpus,
                error=error,
                clips=clips,
                examples=tuple(examples[error]),
            )
            for error, clips in line.failures.items()
        ]
    return sorted(lines, key=lambda reason: -reason.clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioWarnings:
    """One kind of fault in audio that could nevertheless be decoded."""

    kind: str
    clips: int
    """Number of clips in the whole cache, for the teacher with most of them."""
    examples: tuple[str, ...]
    """Ids of sampled clips."""


def audio_warnings(
    surveys: list[TeacherSurvey], sampled: Sequence[tuple[str, Sequence[str]]]
) -> list[AudioWarnings]:
    """Counts the builds' warnings by kind, most frequent first.

    Args:
        surveys: The surveys; teachers process the same audio, so they count the same clips.
        sampled: Clip ids, with the kinds of their warnings.
    """
    counts: Counter[str] = Counter()
    for corpus in {line.corpus for line in surveys}:
        most: Counter[str] = Counter()
        for line in surveys:
            if line.corpus == corpus:
                most |= line.warnings
        counts += most
    return [
        AudioWarnings(
            kind=kind,
            clips=clips,
            examples=tuple(clip_id for clip_id, kinds in sampled if kind in kinds)[:EXAMPLES],
        )
        for kind, clips in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def throughput(line: TeacherSurvey) -> dict[str, list[float]]:
    """Computes the progress of one teacher over time.

    Returns:
        `at`: seconds since 1970, at most `POINTS` of them. `hours`: audio hours done by then.
        `speed`: audio seconds per worker second since the previous point; 0 if nothing finished.
    """
    commits_N3 = np.array(line.commits)
    finished_N = commits_N3[:, 0]
    few = len(finished_N) <= POINTS
    ends_P = np.unique(finished_N if few else np.linspace(finished_N[0], finished_N[-1], POINTS))
    upto_P = np.searchsorted(finished_N, ends_P, side="right")
    done_PX = np.vstack([np.zeros(2), np.cumsum(commits_N3[:, 1:], axis=0)])[upto_P]
    audio_P, worker_P = np.diff(done_PX, axis=0, prepend=0).T
    speed_P = np.divide(audio_P, worker_P, out=np.zeros_like(audio_P), where=worker_P > 0)
    return {
        "at": ends_P.tolist(),
        "hours": (done_PX[:, 0] / 3600).round(5).tolist(),
        "speed": speed_P.round(3).tolist(),
    }


def durations(corpus: Corpus) -> np.ndarray:
    """Reads all known durations in seconds, stated or estimated, and no other columns."""

    def read(part: Part) -> np.ndarray:
        with corpus.folder.open(part.file) as file:
            stored = set(pq.read_schema(file).names)
            columns = [name for name in ("duration", "estimated_duration") if name in stored]
            table = pq.read_table(file, columns=columns, pre_buffer=True)
        return likely_durations(table).drop_null().to_numpy()

    return np.concatenate([np.empty(0), *in_parallel(read, corpus.parts, requests=8)])
