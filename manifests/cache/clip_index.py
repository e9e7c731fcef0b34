"""An index from clip id to place in the cache: a few hundred megabytes for ten million clips.

A Python dict of that many strings takes gigabytes. Here each id is represented by its 64-bit hash
in a sorted array. The reader compares the id stored at the place with the requested one, so a
collision can never return another clip's frames. The ids of a corpus are read and sorted once
(`CorpusClips`); for each teacher, only its shards and its failed clips are stored in addition
(`ClipIndex`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.cache.shards import digest_ids
from manifests.corpus.corpus import Corpus
from manifests.corpus.corpus_index import Part
from manifests.errors import UserError
from manifests.storage import in_parallel

ABSENT = -1
"""Place of a clip that is not indexed."""
PARTS_AT_ONCE = 8
"""Number of corpus parts that are read in parallel; a part has 65,536 clips in a few megabytes."""
ROW_BITS = 32
ROW_MASK = (1 << ROW_BITS) - 1

# Legend: N clips.


class CommonIds(UserError):
    """Two corpora of a cache have a clip of the same id."""


def clip_keys(clip_ids: Iterable[str]) -> np.ndarray:
    """Returns the 64-bit hash of each id (uint64), which is the key of the index."""
    blake2b = hashlib.blake2b
    digests = [blake2b(clip_id.encode(), digest_size=8).digest() for clip_id in clip_ids]
    return np.frombuffer(b"".join(digests), "<u8")


@dataclass(frozen=True, slots=True)
class _PartIds:
    """The ids of one part of a corpus, shard by shard."""

    key_N: np.ndarray
    sizes: list[int]
    digests: list[str]


class CorpusClips:
    """The clips of some corpora: shard and position of each.

    Shards are counted over all the corpora, in the order in which they are given.

    Args:
        corpora: Name -> corpus.

    Raises:
        CommonIds: two of the corpora have a clip of the same id.
    """

    def __init__(self, corpora: Mapping[str, Corpus]) -> None:
        self._corpora = corpora
        self._first: dict[str, int] = {}
        self.digests: list[str] = []
        """Digest of each shard's ids (`manifests.cache.shards.digest_ids`)."""
        keys, places = [np.empty(0, "<u8")], [np.empty(0, np.int64)]
        for name, corpus in corpora.items():
            self._first[name] = len(self.digests)
            for part in in_parallel(
                lambda part, corpus=corpus: _read_ids(corpus, part),
                corpus.parts,
                requests=PARTS_AT_ONCE,
            ):
                first = len(self.digests)
                shard_N = np.repeat(np.arange(first, first + len(part.sizes)), part.sizes)
                row_N = np.concatenate([np.arange(size) for size in part.sizes])
                keys.append(part.key_N)
                places.append((shard_N << ROW_BITS) + row_N)
                self.digests += part.digests
        key_N = np.concatenate(keys)
        order_N = key_N.argsort(kind="stable")
        self._keys = key_N[order_N]
        self._places = np.concatenate(places)[order_N]
        self.sizes = np.bincount(self._places >> ROW_BITS, minlength=len(self.digests))
        """Clips of each shard."""
        (repeated,) = np.nonzero(self._keys[1:] == self._keys[:-1])
        if len(repeated):
            self._refuse(*self._places[repeated[0] : repeated[0] + 2].tolist())

    def ordinal(self, corpus: str, shard: int) -> int:
        """A shard's number over all the corpora."""
        return self._first[corpus] + shard

    def place(self, clip_id: str) -> int:
        """Finds the place of one clip, as `places` gives it."""
        (key,) = clip_keys([clip_id])
        place = int(self._keys.searchsorted(key))
        if place == len(self._keys) or self._keys[place] != key:
            return ABSENT
        return int(self._places[place])

    def places(self, key_N: np.ndarray) -> np.ndarray:
        """Places of many clips in one look-up: shard ordinal * 2^32 + position, or `ABSENT`."""
        if not len(self._keys):
            return np.full(len(key_N), ABSENT)
        at_N = np.searchsorted(self._keys, key_N).clip(max=len(self._keys) - 1)
        return np.where(self._keys[at_N] == key_N, self._places[at_N], ABSENT)

    def _refuse(self, *places: int) -> None:
        clashes = []
        for place in places:
            ordinal, row = divmod(place, 1 << ROW_BITS)
            name = max(
                self._first, key=lambda name: (self._first[name] <= ordinal, self._first[name])
            )
            clashes.append((name, self._corpora[name].shard_ids(ordinal - self._first[name])[row]))
        (first, clip_id), (second, other) = clashes
        raise CommonIds(
            f"the corpora {first!r} and {second!r} of this cache both have a clip {clip_id!r}, so "
            "they cannot be read together; read one of them: --corpus NAME on the command line, "
            f"corpora=[{second!r}] in Python"
            if clip_id == other
            else f"the clips {clip_id!r} and {other!r} have the same hash; rename one of them"
        )


class ClipIndex:
    """The places of one teacher's rows: a shard's ordinal and the row within it.

    Args:
        clips: The clips of the corpora.
        shards: The teacher's shards, in its own order, as ordinals of `clips`.
        failed: Keys of the clips without a row in these shards.
    """

    def __init__(self, clips: CorpusClips, shards: Sequence[int], failed: np.ndarray) -> None:
        self._clips = clips
        # There is one entry more than shards, so that index -1 (ABSENT) maps to ABSENT.
        self._ordinals = np.full(len(clips.digests) + 1, ABSENT, np.int64)
        self._ordinals[np.array(shards, np.int64)] = np.arange(len(shards))
        self._shards = np.array(shards, np.int64)
        self._failed = np.sort(clips.places(failed))
        self._count = int(clips.sizes[self._shards].sum()) - len(self._failed)

    def __len__(self) -> int:
        return self._count

    def find(self, clip_id: str) -> tuple[int, int] | None:
        """Finds (shard ordinal, row) of a clip; None if it is not indexed."""
        place = self._clips.place(clip_id)
        shard, position = place >> ROW_BITS, place & ROW_MASK
        ordinal = int(self._ordinals[shard])
        if ordinal == ABSENT:
            return None
        if not len(self._failed):
            return ordinal, position
        first, before = self._failed.searchsorted([shard << ROW_BITS, place]).tolist()
        if before < len(self._failed) and self._failed[before] == place:
            return None
        return ordinal, position - (before - first)

    def places(self, key_N: np.ndarray) -> np.ndarray:
        """Places of many clips in one look-up: ordinal * 2^32 + row, or `ABSENT`.

        Args:
            key_N: Hashes from `clip_keys`.
        """
        place_N = self._clips.places(key_N)
        shard_N, position_N = place_N >> ROW_BITS, place_N & ROW_MASK
        ordinal_N = self._ordinals[shard_N]
        before_N = np.searchsorted(self._failed, place_N)
        failed_in_shard_N = before_N - np.searchsorted(self._failed, shard_N << ROW_BITS)
        if len(self._failed):
            is_failed_N = self._failed[before_N.clip(max=len(self._failed) - 1)] == place_N
        else:
            is_failed_N = np.zeros(len(place_N), bool)
        row_N = position_N - failed_in_shard_N
        is_absent_N = (ordinal_N == ABSENT) | is_failed_N
        return np.where(is_absent_N, ABSENT, (ordinal_N << ROW_BITS) + row_N)

    def failed_positions(self, ordinal: int) -> set[int]:
        """Positions, within a shard of the corpus, of the clips that have no row."""
        first = int(self._shards[ordinal]) << ROW_BITS
        low, high = np.searchsorted(self._failed, [first, first + (1 << ROW_BITS)])
        return set((self._failed[low:high] & ROW_MASK).tolist())


def _read_ids(corpus: Corpus, part: Part) -> _PartIds:
    """Reads the ids of a part. A part of a remote corpus is fetched in one request."""
    if corpus.folder.is_local:
        source = corpus.folder.open(part.file, memory_map=True)
    else:
        source = pa.BufferReader(corpus.folder.read_bytes(part.file))
    file = pq.ParquetFile(source, page_checksum_verification=True)
    keys, sizes, digests = [], [], []
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["clip_id"], use_threads=False)
        ids = table.column(0).to_pylist()
        keys.append(clip_keys(ids))
        sizes.append(len(ids))
        digests.append(digest_ids(ids))
    return _PartIds(np.concatenate(keys), sizes, digests)
