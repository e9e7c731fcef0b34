"""Draws a random sample of a cache, reproducible by seed, and reads only the sampled rows.

Clips are drawn in groups of eight neighbours (one row group), because reading one of them takes as
long as reading all. Neighbours are similar (one speaker, one recording), so 2,000 such clips carry
somewhat less information than 2,000 independent ones, but are read ten times as fast.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from manifests.cache import shards, stored_rows
from manifests.cache.layout import Layout
from manifests.cache.shards import ROWS_PER_GROUP, Failure, Row
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus

Place = tuple[str, int, int]
"""Place of a clip: corpus, shard, position within the shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledClip:
    """One clip with all its data in the cache."""

    clip: Clip
    place: Place
    targets: dict[str, Row] = field(default_factory=dict)
    """Teacher name -> its row, with the frames of the requested streams. Teachers that failed or
    have not run yet are omitted."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """Maps teacher names to the reason for missing targets."""


def draw(corpora: Sequence[Corpus], count: int, seed: int) -> list[Place]:
    """Returns the places of `count` clips (or of all clips), in storage order."""
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
    """Reads clips by their places, from the version of each teacher that readers get.

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
        """Yields the clips at some places, one shard in memory at a time.

        Args:
            places: In storage order.
            streams: Teacher name -> names of the streams whose frames are read.

        Raises:
            UserError: a shard cannot be read.
        """
        by_shard: dict[tuple[str, int], list[Place]] = {}
        for place in places:
            by_shard.setdefault(place[:2], []).append(place)
        for (corpus, shard), places_in_shard in by_shard.items():
            clips = self._corpora[corpus].shard(shard)
            sampled = {
                clips[place[2]].clip_id: SampledClip(clip=clips[place[2]], place=place)
                for place in places_in_shard
            }
            for name, spec in self.teachers.items():
                folder = self._folders[name, corpus]
                try:
                    marker = shards.read_marker(folder, shard)
                except FileNotFoundError:
                    continue
                for failure in shards.read_failures(folder, marker):
                    if failure.clip_id in sampled:
                        sampled[failure.clip_id].failures[name] = failure
                for row in stored_rows.read_clip_rows(
                    folder, marker, spec, clip_ids=sampled.keys(), streams=streams.get(name, ())
                ):
                    sampled[row.clip_id].targets[name] = row
            yield from sampled.values()
