"""Checks whether the teachers of a cache processed the same audio, by the digests in their rows.

A file that was replaced between the builds of two teachers leaves targets that do not belong
together. Markers hold a hash of each row's digest, so that a comparison reads no data.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow.parquet as pq

from manifests.cache import shards
from manifests.cache.marker_index import DataFile
from manifests.cache.shards import Marker
from manifests.storage import Folder

# Legend: N rows.

RowDigests = tuple[np.ndarray, np.ndarray]
"""Position of each row within its shard, and a hash of its audio digest (uint64)."""


def read(
    folder: Folder, commit: Marker | DataFile, file: pq.ParquetFile | None
) -> np.ndarray | None:
    """Returns a hash of the audio digest of each row of a shard, or None if that is too expensive.

    Args:
        folder: The teacher's shards.
        commit: The commit of the shard.
        file: Its data file, for markers of format 1, which have no digests; None if it is in an
            object store, where reading one column takes too many requests.
    """
    try:
        stored = shards.read_marker(folder, commit.shard)
        digest_N = stored.row_digests() if stored.data == commit.data else None
    except FileNotFoundError:
        digest_N = None
    if digest_N is None and file is not None:
        column = file.read(columns=["audio_digest"], use_threads=False).column(0)
        digest_N = shards.hash_digests(column.to_pylist())
    return digest_N


def differing_rows(
    rows: RowDigests | None, others: Mapping[str, RowDigests | None]
) -> dict[int, str]:
    """Maps rows of a shard to another teacher that processed different audio for the same clip."""
    differing: dict[int, str] = {}
    for teacher, theirs in others.items():
        if rows is None or theirs is None:
            continue
        _, mine_N, theirs_N = np.intersect1d(rows[0], theirs[0], return_indices=True)
        for place in np.flatnonzero(rows[1][mine_N] != theirs[1][theirs_N]).tolist():
            differing[int(mine_N[place])] = teacher
    return differing
