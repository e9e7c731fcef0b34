"""What a build would do: the shards that each teacher lacks, and what they will cost.

Planning lists commit markers, one listing per teacher, and reads no clip: a corpus of ten million
clips is planned in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from manifests.cache import shards
from manifests.cache.layout import Layout
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus
from manifests.streams.codecs import CODECS
from manifests.streams.specs import StreamSpec, TeacherSpec
from pipeline.build.read_ahead import read_shards

Missing = Mapping[str, Sequence[int]]
"""Teacher -> numbers of the shards that it lacks, ascending."""


@dataclass(frozen=True, slots=True)
class ShardWork:
    """Clips of one slice that some teachers have to hear."""

    number: int
    ids: Sequence[str]
    """Of the whole slice, in order."""
    clips: Sequence[Clip]
    teachers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one teacher's missing shards amount to."""

    teacher: str
    shards: int
    clips: int
    audio_hours: float
    """Of clips whose length the corpus states."""
    cache_bytes: float
    """Expected, by what each codec's blobs shrink to in Parquet."""
    worker_hours: float | None
    """By the speed of what this cache already holds of the teacher; None if it holds nothing."""


def missing(layout: Layout, corpus: Corpus, specs: Sequence[TeacherSpec]) -> dict[str, list[int]]:
    """Shards without a commit marker, by teacher name."""
    every = range(corpus.num_shards)
    lacking = {}
    for spec in specs:
        done = set(shards.committed(layout.shards(spec, corpus.name)))
        lacking[spec.name] = [number for number in every if number not in done]
    return lacking


def work(corpus: Corpus, lacking: Missing) -> Iterator[ShardWork]:
    """The missing shards in order, read in threads shortly before they are needed."""
    wanted = {name: set(numbers) for name, numbers in lacking.items()}
    numbers = sorted(set().union(*wanted.values()))
    for number, clips in zip(numbers, read_shards(corpus, numbers), strict=True):
        ids = [clip.clip_id for clip in clips]
        yield ShardWork(number, ids, clips, [name for name in wanted if number in wanted[name]])


def failed(
    layout: Layout, corpus: Corpus, specs: Sequence[TeacherSpec]
) -> dict[str, dict[int, frozenset[str]]]:
    """Teacher -> shard -> ids of the clips that failed, for committed shards that have some."""
    found: dict[str, dict[int, frozenset[str]]] = {}
    for spec in specs:
        folder = layout.shards(spec, corpus.name)
        found[spec.name] = {}
        for number in shards.committed(folder):
            failures = shards.read_failures(folder, shards.read_marker(folder, number))
            if failures:
                found[spec.name][number] = frozenset(failure.clip_id for failure in failures)
    return found


def rework(
    corpus: Corpus, failures: Mapping[str, Mapping[int, frozenset[str]]]
) -> Iterator[ShardWork]:
    """The failed clips alone; teachers that failed on the same clips of a shard go together."""
    numbers = sorted(set().union(*failures.values()))
    for number, clips in zip(numbers, read_shards(corpus, numbers), strict=True):
        ids = [clip.clip_id for clip in clips]
        alike: dict[frozenset[str], list[str]] = {}
        for name, by_shard in failures.items():
            if number in by_shard:
                alike.setdefault(by_shard[number], []).append(name)
        for wanted, names in alike.items():
            yield ShardWork(number, ids, [c for c in clips if c.clip_id in wanted], names)


def estimate(layout: Layout, corpus: Corpus, spec: TeacherSpec, numbers: Sequence[int]) -> Estimate:
    """What extracting these shards will take."""
    sizes = corpus.shard_sizes()
    clips = sum(sizes[number] for number in numbers)
    seconds = corpus.seconds * clips / max(corpus.num_clips, 1)
    rate = sum(stored_bytes_per_frame(stream) * stream.frame_rate for stream in spec.streams)
    speed = _worker_seconds_per_second(layout, corpus, spec)
    return Estimate(
        teacher=spec.name,
        shards=len(numbers),
        clips=clips,
        audio_hours=seconds / 3600,
        cache_bytes=seconds * rate,
        worker_hours=None if speed is None else seconds * speed / 3600,
    )


def stored_bytes_per_frame(stream: StreamSpec) -> float:
    """Expected bytes of one frame in a Parquet file."""
    codec = CODECS[stream.codec]
    return codec.bytes_per_frame(stream) * codec.compressed_share


def _worker_seconds_per_second(layout: Layout, corpus: Corpus, spec: TeacherSpec) -> float | None:
    """Measured on the first shards that any version of the teacher has for the corpus."""
    for known in reversed(layout.teachers().values()):
        if known.name != spec.name:
            continue
        folder = layout.shards(known, corpus.name)
        markers = [shards.read_marker(folder, number) for number in shards.committed(folder)[:8]]
        heard = sum(marker.seconds for marker in markers)
        if heard:
            return sum(marker.extract_seconds for marker in markers) / heard
    return None
