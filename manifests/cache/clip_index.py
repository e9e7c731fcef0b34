"""Clip id -> place in the cache, for ten million clips in a few hundred megabytes.

A Python dict of that many strings takes gigabytes. Here an id is its 64-bit hash in a sorted array;
the reader compares the id it finds at the place with the one it sought, so a collision can never
give another clip's frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


def _hash(clip_id: str) -> bytes:
    return hashlib.blake2b(clip_id.encode(), digest_size=8).digest()


class ClipIndex:
    """Where each clip's row is: a shard's ordinal and the row within it."""

    def __init__(self, shards: Iterable[Sequence[str]]) -> None:
        """Indexes the ids of each shard's rows, in the order of the rows.

        Raises:
            ValueError: an id occurs twice.
        """
        keys: list[np.ndarray] = []
        places: list[np.ndarray] = []
        for ordinal, ids in enumerate(shards):
            keys.append(np.frombuffer(b"".join(map(_hash, ids)), "<u8"))
            places.append((ordinal << 32) + np.arange(len(ids)))
        key_N = np.concatenate([np.empty(0, "<u8"), *keys])
        order_N = key_N.argsort(kind="stable")
        self._keys = key_N[order_N]
        self._places = np.concatenate([np.empty(0, np.int64), *places])[order_N]
        if (self._keys[1:] == self._keys[:-1]).any():
            raise ValueError("a clip occurs in two places")

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, clip_id: str) -> tuple[int, int] | None:
        """(shard ordinal, row) of a clip, or None where it is not indexed."""
        key = np.frombuffer(_hash(clip_id), "<u8")[0]
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            return None
        return divmod(int(self._places[at]), 1 << 32)
