"""Which clip ids a corpus has, so that a build takes each one once: 24 bytes for each clip.

A Python set of ten million ids takes more than a gigabyte. Here an id is a 64-bit hash in a numpy
array, and the row behind a hash is read again only where there is something to report. Duplicates
among new clips are therefore found at the end of the build, in one sort, before it is committed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from manifests.clips import Clip
from manifests.errors import UserError

log = logging.getLogger(__name__)


class Ledger:
    """The ids of a corpus, and of the clips that a build adds to it.

    Args:
        tables: The corpus's rows, `manifests.clips.SCHEMA`.
        clip: The corpus's clip at a row.
    """

    def __init__(self, tables: Iterable[pa.Table], clip: Callable[[int], Clip]) -> None:
        hashes = [_hashes(table) for table in tables]
        keys = np.concatenate([_NONE, *(keys for keys, _ in hashes)])
        self._rows = keys.argsort().astype(np.uint32)
        self._keys = keys[self._rows]
        self._contents = np.concatenate([_NONE, *(contents for _, contents in hashes)])
        self._met = np.zeros(len(keys), np.uint32)
        """Row of the corpus -> its place in the source, from 1; 0 where not met yet."""
        self._new_keys = [_NONE]
        self._new_places = [np.empty(0, np.uint32)]
        self._clip = clip
        self._read = 0
        self._relabelled = 0

    def admit(self, batch: pa.Table) -> pa.Table:
        """Takes the next rows of the source and returns those that the corpus does not have.

        Raises:
            UserError: a row of the corpus comes again with other audio, or comes twice.
        """
        keys, contents = _hashes(batch)
        places = np.arange(1, len(keys) + 1, dtype=np.uint32) + np.uint32(self._read)
        self._read += len(keys)
        at = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), bool)
        inside = at < len(self._keys)
        known[inside] = self._keys[at[inside]] == keys[inside]
        for index in np.flatnonzero(known):
            row = int(self._rows[at[index]])
            place = int(places[index])
            if self._met[row]:
                raise _duplicate(self._clip(row), int(self._met[row]), self._clip(row), place)
            self._met[row] = place
            if self._contents[row] != contents[index]:
                self._compare(row, batch.slice(index, 1), place)
        self._new_keys.append(keys[~known])
        self._new_places.append(places[~known])
        return batch.filter(pa.array(~known))

    def check_new_ids(self, clip: Callable[[int], Clip]) -> None:
        """Ends the build.

        Args:
            clip: The grown corpus's clip at a row.

        Raises:
            UserError: an id occurs twice among the new clips.
        """
        if self._relabelled:
            log.warning(
                "%d clips come with another text or other labels than the corpus has; they stay as "
                "they were (build into another folder to take the new ones)",
                self._relabelled,
            )
        keys = np.concatenate(self._new_keys)
        places = np.concatenate(self._new_places)
        order = keys.argsort(kind="stable")
        again = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        if len(again):
            first, second = min((int(order[at]), int(order[at + 1])) for at in again)
            old = len(self._rows)
            raise _duplicate(
                clip(old + first),
                int(places[first]),
                clip(old + second),
                int(places[second]),
                others=len(again) - 1,
            )

    def _compare(self, row: int, found: pa.Table, place: int) -> None:
        """A known id comes with another row: other labels are let pass, other audio is not."""
        before, now = self._clip(row), from_table(found)[0]
        if before.clip_id != now.clip_id:
            raise _duplicate(before, None, now, place)
        if replace(now, text=before.text, labels=before.labels) != before:
            raise UserError(
                f"clip {now.clip_id!r} has changed: the corpus has {_audio(before)}, clip {place} of "
                f"the source has {_audio(now)}; give the changed clip a new id, or build into "
                "another folder"
            )
        self._relabelled += 1
