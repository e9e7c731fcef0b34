"""The plan of a build: the shards that each teacher lacks, and their expected cost.

Planning lists commit markers, one listing per teacher, and reads no clip: a corpus of ten million
clips is planned in seconds. Configurations that a build would reject are rejected here, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq
from rich import box
from rich.table import Table

from manifests.cache import marker_index, shards
from manifests.cache.layout import Layout
from manifests.cache.totals import Totals, totals
from manifests.clips import Clip, likely_durations
from manifests.corpus.corpus import Corpus
from manifests.corpus.corpus_index import Part
from manifests.storage import in_parallel
from manifests.streams.codecs import CODECS
from manifests.streams.specs import StreamSpec, TeacherSpec
from manifests.wording import number_of
from pipeline.build.read_ahead import read_shards

Missing = Mapping[str, Sequence[int]]
"""Numbers of the shards that each teacher lacks, ascending."""


@dataclass(frozen=True, slots=True)
class ShardWork:
    """Clips of one shard that some teachers have to process."""

    number: int
    ids: Sequence[str]
    """Ids of all clips of the shard, in order."""
    clips: Sequence[Clip]
    teachers: Sequence[str]


CORE_SECONDS = {
    "whisper_ct2": 0.308,
    "crepe": 0.173,
    "egemaps": 0.055,
    "basic_pitch": 0.046,
    "yamnet": 0.006,
}
"""Family -> core seconds per audio second, used before anything was measured; from
docs/cluster.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Expected cost of one teacher's missing shards; None for unknown values."""

    teacher: str
    shards: int
    clips: int
    clips_of_unknown_length: int
    """These clips count with the average length in hours, bytes and worker hours."""
    audio_hours: float | None
    cache_bytes: float | None
    """Expected size after compression in Parquet."""
    worker_hours: float | None
    is_provisional: bool
    """Whether the worker hours come from another version of the teacher or from the table in
    docs/cluster.md, because this version has no measurements in this cache."""
    price: float | None
    """Price of the workers' cores; None if no price per core hour is given."""


SHARD_BYTES = 2_200
"""Size of the footer of a shard's Parquet file; small streams of short clips are smaller."""
ROW_BYTES = 75
"""Size of the other columns of a row, after compression."""


def missing(layout: Layout, corpus: Corpus, specs: Sequence[TeacherSpec]) -> dict[str, list[int]]:
    """Finds shards without a commit marker, by teacher name."""
    folders = [layout.shards(spec, corpus.name) for spec in specs]
    missing_shards = {}
    for spec, numbers in zip(specs, in_parallel(shards.committed, folders), strict=True):
        done = set(numbers)
        missing_shards[spec.name] = [
            number for number in range(corpus.num_shards) if number not in done
        ]
    return missing_shards


def work(corpus: Corpus, missing_shards: Missing) -> Iterator[ShardWork]:
    """Yields the missing shards in order, read in threads shortly before they are needed."""
    by_teacher = {name: set(numbers) for name, numbers in missing_shards.items()}
    numbers = sorted(set().union(*by_teacher.values()))
    for number, clips in zip(numbers, read_shards(corpus, numbers), strict=True):
        ids = [clip.clip_id for clip in clips]
        yield ShardWork(
            number, ids, clips, [name for name in by_teacher if number in by_teacher[name]]
        )


def failed(
    layout: Layout, corpus: Corpus, specs: Sequence[TeacherSpec]
) -> dict[str, dict[int, frozenset[str]]]:
    """Finds the ids of the failed clips of committed shards, by teacher and shard."""

    def failed_clips(spec: TeacherSpec) -> dict[int, frozenset[str]]:
        return {
            marker.shard: frozenset(failure.clip_id for failure in marker.failed)
            for marker in marker_index.read_markers(layout.shards(spec, corpus.name))
            if marker.failed
        }

    names = [spec.name for spec in specs]
    return dict(zip(names, in_parallel(failed_clips, specs), strict=True))


def rework(
    corpus: Corpus, failures: Mapping[str, Mapping[int, frozenset[str]]]
) -> Iterator[ShardWork]:
    """Yields the failed clips; teachers that failed on the same clips of a shard share an entry."""
    numbers = sorted(set().union(*failures.values()))
    for number, clips in zip(numbers, read_shards(corpus, numbers), strict=True):
        ids = [clip.clip_id for clip in clips]
        by_failed_ids: dict[frozenset[str], list[str]] = {}
        for name, by_shard in failures.items():
            if number in by_shard:
                by_failed_ids.setdefault(by_shard[number], []).append(name)
        for failed_ids, names in by_failed_ids.items():
            yield ShardWork(number, ids, [c for c in clips if c.clip_id in failed_ids], names)


def unknown_lengths(corpus: Corpus) -> int:
    """Counts clips whose length is neither stated nor estimated, from the footers of the parts."""

    def count(part: Part) -> int:
        with corpus.folder.open(part.file) as file:
            metadata = pq.ParquetFile(file).metadata
            names = metadata.schema.to_arrow_schema().names
            indexes = [
                index
                for index, name in enumerate(names)
                if name in ("duration", "estimated_duration")
            ]
            chunks = [
                metadata.row_group(group).column(index)
                for group in range(metadata.num_row_groups)
                for index in indexes
            ]
            if all(chunk.is_stats_set for chunk in chunks):
                return part.clips - sum(chunk.statistics.num_values for chunk in chunks)
            file.seek(0)
            columns = pq.read_table(file, columns=[names[index] for index in indexes])
            return likely_durations(columns).null_count

    return sum(in_parallel(count, corpus.parts))


def estimate(
    layout: Layout,
    corpus: Corpus,
    spec: TeacherSpec,
    numbers: Sequence[int],
    *,
    unknown: int = 0,
    num_cpus: float = 1.0,
    price_per_core_hour: float = 0.0,
) -> Estimate:
    """Estimates the cost of extracting these shards.

    Args:
        layout: The cache.
        corpus: The corpus.
        spec: The teacher's version.
        numbers: Numbers of the missing shards.
        unknown: Clips of the corpus without a stated length (`unknown_lengths`).
        num_cpus: Cores of a worker.
        price_per_core_hour: In any currency; 0 if it is not known.
    """
    sizes = corpus.shard_sizes()
    clips = sum(sizes[number] for number in numbers)
    version, measured = _measured(layout, corpus, spec)
    known = corpus.num_clips - unknown
    if known:
        mean = corpus.seconds / known
    else:
        mean = measured.seconds / measured.rows if measured.rows else None
    seconds = None if mean is None and clips else (mean or 0.0) * clips
    rate = sum(stored_bytes_per_frame(stream) * stream.frame_rate for stream in spec.streams)
    scales = sum(CODECS[stream.codec].bytes_per_clip(stream) for stream in spec.streams)
    overhead = len(numbers) * SHARD_BYTES + clips * (ROW_BYTES + scales)
    if version is not None and version.streams == spec.streams and measured.seconds:
        rate, overhead = measured.data_bytes / measured.seconds, 0.0
    if not measured.seconds or (version is not None and version.family != spec.family):
        core_seconds = CORE_SECONDS.get(spec.family)
        speed = None if core_seconds is None else core_seconds / max(num_cpus, 1.0)
    else:
        speed = measured.extract_seconds / measured.seconds
    hours = None if seconds is None or speed is None else seconds * speed / 3600
    priced = price_per_core_hour > 0 and hours is not None
    return Estimate(
        teacher=spec.name,
        shards=len(numbers),
        clips=clips,
        clips_of_unknown_length=round(unknown * clips / max(corpus.num_clips, 1)),
        audio_hours=None if seconds is None else seconds / 3600,
        cache_bytes=None if seconds is None else seconds * rate + overhead,
        worker_hours=hours,
        is_provisional=version is None or version.key != spec.key,
        price=hours * num_cpus * price_per_core_hour if priced and hours is not None else None,
    )


def table(corpus: str, estimates: Sequence[tuple[TeacherSpec, Estimate]]) -> Table:
    """Renders the estimates and their sum as a table."""
    shown = Table(
        "teacher", "version", title=f"To do for corpus {corpus}", box=box.SIMPLE_HEAD, padding=0,
        caption_justify="left",
    )  # fmt: skip
    has_price = any(todo.price is not None for _, todo in estimates)
    for heading in ("shards", "clips", "audio h", "cache MB", "worker h"):
        shown.add_column(heading, justify="right")
    if has_price:
        shown.add_column("price", justify="right")
    for spec, todo in estimates:
        hours = _number(todo.worker_hours, 3)
        shown.add_row(
            spec.name,
            spec.fingerprint,
            f"{todo.shards:,}",
            f"{todo.clips:,}",
            _number(todo.audio_hours, 2),
            _number(todo.cache_bytes and todo.cache_bytes / 1e6, 1),
            f"~{hours}" if todo.is_provisional and todo.worker_hours else hours,
            *([_price(todo.price)] if has_price else []),
        )
    if len(estimates) > 1:
        todos = [todo for _, todo in estimates]
        size = _sum(todo.cache_bytes for todo in todos)
        shown.add_section()
        shown.add_row(
            "all", "", f"{sum(todo.shards for todo in todos):,}", "", "",
            _number(size and size / 1e6, 1), _number(_sum(todo.worker_hours for todo in todos), 3),
            *([_price(_sum(todo.price for todo in todos))] if has_price else []),
        )  # fmt: skip
    notes = []
    unknown = max((todo.clips_of_unknown_length for _, todo in estimates), default=0)
    if unknown:
        unstated = number_of(unknown, "clip has", "clips have")
        notes.append(
            f"{unstated} no stated length: the average of the others is assumed"
            if estimates[0][1].audio_hours is not None
            else f"{unstated} no stated length, so hours and bytes are unknown"
        )
    if any(todo.is_provisional and todo.worker_hours for _, todo in estimates):
        notes.append(
            "~ not measured here yet: estimated from another version of the teacher, or from the "
            "table in docs/cluster.md"
        )
    shown.caption = "\n".join(notes) or None
    return shown


def _number(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:,.{digits}f}"


def _sum(values: Iterable[float | None]) -> float | None:
    listed = list(values)
    known = [value for value in listed if value is not None]
    return sum(known) if len(known) == len(listed) else None


def stored_bytes_per_frame(stream: StreamSpec) -> float:
    """Estimates the bytes of one frame in a Parquet file."""
    codec = CODECS[stream.codec]
    return codec.bytes_per_frame(stream) * codec.compressed_share


def _measured(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
) -> tuple[TeacherSpec | None, Totals]:
    """Reads a teacher's totals over the corpus, and the version that they describe.

    This is the planned version, else the newest version of its family, else the newest one.
    """
    versions = [known for known in layout.teachers().values() if known.name == spec.name]
    versions.sort(key=lambda known: (known.key == spec.key, known.family == spec.family))
    for known in reversed(versions):
        total = totals(layout.shards(known, corpus.name))
        if total.seconds:
            return known, total
    return None, Totals()


def _price(value: float | None) -> str:
    """Formats a price with two decimals, or with more where these would be 0.00."""
    return "unknown" if value is None else f"{value:,.2f}" if value >= 0.01 else f"{value:.2g}"
