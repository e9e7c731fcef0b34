"""A fair sample of a cache, the same for the same seed, read without touching the rest.

The unit is eight neighbouring clips, what one row group holds: reading one of them costs as much as
reading all. Neighbours resemble each other (one speaker, one recording), so 2,000 clips drawn like
this say somewhat less than 2,000 drawn one by one; they are read ten times as fast.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.cache import shards
from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.layout import Layout
from manifests.cache.shards import ROWS_PER_GROUP, Failure, Marker
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.streams.specs import TeacherSpec

Place = tuple[str, int, int]
"""Where a clip is: corpus, shard, place within the shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTargets:
    """What one teacher says of one clip."""

    duration: float
    """Seconds of audio that it heard."""
    audio_digest: str
    metadata: dict[str, Any]
    frames: Mapping[str, EncodedFrames]
    """Stream name -> frames, of the streams that were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledClip:
    """One clip with all that the cache says of it."""

    clip: Clip
    place: Place
    targets: dict[str, TeacherTargets] = field(default_factory=dict)
    """Teacher name -> its targets; a teacher that failed or has not run yet is left out."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """Teacher name -> why there are no targets."""


def draw(corpora: Sequence[Corpus], count: int, seed: int) -> list[Place]:
    """Places of `count` clips (or of all there are), in storage order."""
    blocks: list[tuple[str, int, range]] = []
    for corpus in corpora:
        for shard, size in enumerate(corpus.shard_sizes()):
            for first in range(0, size, ROWS_PER_GROUP):
                rows = range(first, min(first + ROWS_PER_GROUP, size))
                blocks.append((corpus.name, shard, rows))
    random.Random(seed).shuffle(blocks)
    places: list[Place] = []
    for corpus_name, shard, rows in blocks:
        if len(places) >= count:
            break
        places += [(corpus_name, shard, row) for row in rows]
    return sorted(places[:count])


class Sampler:
    """Reads clips by their places, by every teacher's newest version.

    Args:
        layout: The cache.
    """

    def __init__(self, layout: Layout) -> None:
        self.teachers = layout.current()
        self._corpora = {name: layout.corpus(name) for name in layout.corpora()}
        self._folders = {
            (name, corpus): layout.shards(spec, corpus)
            for name, spec in self.teachers.items()
            for corpus in self._corpora
        }

    def read(
        self, places: Sequence[Place], streams: Mapping[str, Sequence[str]]
    ) -> Iterator[SampledClip]:
        """The clips at some places, one shard in memory at a time.

        Args:
            places: In storage order.
            streams: Teacher name -> streams whose frames are wanted.

        Raises:
            UserError: a shard cannot be read.
        """
        by_shard: dict[tuple[str, int], list[Place]] = {}
        for place in places:
            by_shard.setdefault(place[:2], []).append(place)
        for (corpus, shard), wanted in by_shard.items():
            clips = self._corpora[corpus].shard(shard)
            found = {
                clips[place[2]].clip_id: SampledClip(clip=clips[place[2]], place=place)
                for place in wanted
            }
            for name, spec in self.teachers.items():
                folder = self._folders[name, corpus]
                try:
                    marker = shards.read_marker(folder, shard)
                except FileNotFoundError:
                    continue
                for failure in shards.read_failures(folder, marker):
                    if failure.clip_id in found:
                        found[failure.clip_id].failures[name] = failure
                targets = _read_targets(folder, marker, spec, found.keys(), streams.get(name, ()))
                for clip_id, target in targets:
                    found[clip_id].targets[name] = target
            yield from found.values()


def _read_targets(
    folder: Folder,
    marker: Marker,
    spec: TeacherSpec,
    clip_ids: Collection[str],
    streams: Sequence[str],
) -> list[tuple[str, TeacherTargets]]:
    """(clip id, target) of those clips that are in a shard; reads their row groups alone."""
    columns = ["clip_id", "duration", "audio_digest", "metadata"]
    columns += [f"{name}.{part}" for name in streams for part in ("frames", "num_frames")]
    try:
        with folder.open(f"data/{marker.data}", memory_map=True) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            stored = file.read(columns=["clip_id"]).column(0).to_pylist()
            groups = {
                row // ROWS_PER_GROUP for row, clip_id in enumerate(stored) if clip_id in clip_ids
            }
            rows = file.read_row_groups(sorted(groups), columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{folder.uri}/data/{marker.data} cannot be read ({error}); "
            "run: coat-cache verify --deep --repair, then build again"
        ) from None
    return [
        (
            row["clip_id"],
            TeacherTargets(
                duration=row["duration"],
                audio_digest=row["audio_digest"],
                metadata=json.loads(row["metadata"]),
                frames={
                    name: EncodedFrames(
                        spec.stream(name), row[f"{name}.frames"], row[f"{name}.num_frames"]
                    )
                    for name in streams
                },
            ),
        )
        for row in rows
        if row["clip_id"] in clip_ids
    ]
