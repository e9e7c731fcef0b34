"""Looks up clips in a large corpus, for lists of the few that failed or have warnings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.clips import Clip, from_table
from manifests.corpus.corpus import Corpus
from manifests.corpus.corpus_index import Part
from manifests.storage import in_parallel

PARTS_AT_ONCE = 8
"""Number of corpus parts that are read in parallel; a part has 65,536 clips in a few megabytes."""


def find_clips(corpus: Corpus, shards: Iterable[int], ids: Collection[str]) -> Iterator[Clip]:
    """Yields clips in the order of the corpus.

    Each part is opened once and all its shards are read together: on an object store, one request
    per shard would take half an hour for ten million clips.

    Args:
        corpus: The corpus.
        shards: The shards to look into.
        ids: The clips to look for.
    """
    by_part: dict[int, list[int]] = {}
    for shard in sorted(shards):
        ordinal, group = corpus.locate(shard)
        by_part.setdefault(ordinal, []).append(group)
    id_array = pa.array(sorted(ids), pa.string())

    def read(place: tuple[Part, list[int]]) -> list[Clip]:
        part, groups = place
        with corpus.folder.open(part.file) as source:
            file = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
            table = file.read_row_groups(groups, use_threads=False)
        return from_table(table.filter(pc.field("clip_id").isin(id_array)))

    places = [(corpus.parts[ordinal], groups) for ordinal, groups in by_part.items()]
    for clips in in_parallel(read, places, requests=PARTS_AT_ONCE):
        yield from clips
