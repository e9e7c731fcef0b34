"""The clip ids of a corpus, so that a build takes each clip once: 24 bytes for each clip.

A Python set of ten million ids takes more than a gigabyte. Here an id is a 64-bit hash in a numpy
array, and a row is read again only to report it. Duplicates among new clips are found with one sort
at the end of the build, before it is committed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from manifests.audio_address import tar_member
from manifests.clips import Clip, describe_ids, from_table, likely_durations
from manifests.errors import UserError
from manifests.wording import number_of

log = logging.getLogger(__name__)

_NONE = np.empty(0, np.uint64)


class DuplicateIndex:
    """The ids of a corpus and of the clips that a build adds to it.

    Args:
        tables: The corpus's rows, `manifests.clips.SCHEMA`.
        clip: The corpus's clip at a row.
        part_sizes: Number of clips of each part; a build appends parts.
        accept_changed_files: Accept another length in the header of a clip's file, an estimate that
            limits nothing.
    """

    def __init__(
        self,
        tables: Iterable[pa.Table],
        clip: Callable[[int], Clip],
        *,
        part_sizes: Sequence[int] = (),
        accept_changed_files: bool = False,
    ) -> None:
        hashes = [_hashes(table) for table in tables]
        self._part_ends = np.cumsum(part_sizes, dtype=np.int64) - 1
        keys = np.concatenate([_NONE, *(keys for keys, _ in hashes)])
        self._rows = keys.argsort().astype(np.uint32)
        self._keys = keys[self._rows]
        self._contents = np.concatenate([_NONE, *(contents for _, contents in hashes)])
        self._clip = clip
        self._accept_changed_files = accept_changed_files
        # Row of the corpus -> its place in the source, counted from 1; 0 if it has not occurred
        # yet.
        self._met = np.zeros(len(keys), np.uint32)
        self._new_keys = [_NONE]
        self._new_places = [np.empty(0, np.uint32)]
        self._place = 1
        self.relabelled: dict[int, Clip] = {}
        """Row of the corpus -> the source's clip, if its text or labels differ."""
        self.lengths: dict[int, float] = {}
        """Row of the corpus -> length in seconds in the header of its file, if the corpus has
        another one, or none."""
        self.uris: dict[int, str] = {}
        """Row of the corpus -> its place in a tar that was written again."""
        self._changed_files: list[str] = []

    def admit(self, batch: pa.Table) -> pa.Table:
        """Takes the next rows of the source and returns those that the corpus does not have.

        Raises:
            UserError: a clip of the corpus comes with other audio, or comes twice.
        """
        keys, contents = _hashes(batch)
        places = np.arange(self._place, self._place + len(keys), dtype=np.uint32)
        self._place += len(keys)
        insertion = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), bool)
        inside = insertion < len(self._keys)
        known[inside] = self._keys[insertion[inside]] == keys[inside]
        rows = self._rows[insertion[known]].tolist()
        for index, row in zip(np.flatnonzero(known).tolist(), rows, strict=True):
            place = int(places[index])
            if self._met[row]:
                again = from_table(batch.slice(index, 1))[0]
                raise _duplicate(
                    (self._clip(row), again),
                    (f"clip {self._met[row]} of the source", f"clip {place}"),
                )
            self._met[row] = place
            if self._contents[row] != contents[index]:
                self._compare(row, from_table(batch.slice(index, 1))[0], place)
        self._new_keys.append(keys[~known])
        self._new_places.append(places[~known])
        return batch.filter(pa.array(~known))

    def close(self, clip: Callable[[int], Clip]) -> None:
        """Ends the build: checks the new ids against each other.

        Args:
            clip: The grown corpus's clip at a row.

        Raises:
            UserError: an id occurs twice.
        """
        # Clips that were added between others follow at the end: places go back at ends of parts.
        rows = np.flatnonzero(self._met)
        descends = np.diff(self._met[rows].astype(np.int64)) < 0
        moved = descends & ~np.isin(rows[:-1], self._part_ends)
        if num_moved := int(moved.sum()):
            log.warning(
                "the source was reordered (its clips go back at %d places); the corpus keeps its "
                "own order, and new clips follow at its end",
                num_moved,
            )
        absent = len(self._met) - len(rows)
        num_new = sum(map(len, self._new_keys))
        if absent and len(rows):
            log.warning(
                "%s not in the source any more; the corpus keeps what it has",
                number_of(absent, "clip of the corpus is", "clips of the corpus are"),
            )
        elif absent and num_new:
            log.warning(
                "no clip of the corpus is in the source; it keeps its %s, and %s at its end",
                number_of(absent, "clip"),
                number_of(num_new, "new clip follows", "new clips follow"),
            )
        if self.uris:
            log.warning(
                "%s another place than before, because tars were written again; the corpus takes "
                "the new places",
                number_of(len(self.uris), "clip has", "clips have"),
            )
        if self._changed_files:
            log.warning(
                "%s a file of another length than before: %s; the corpus takes the "
                "new length. If a cache has targets of the replaced audio, run: coat-cache audit "
                "--content-only --sample 0 --repair, then build again",
                number_of(len(self._changed_files), "clip has", "clips have"),
                describe_ids(self._changed_files),
            )  # fmt: skip
        keys = np.concatenate(self._new_keys)
        places = np.concatenate(self._new_places)
        order = keys.argsort(kind="stable")
        again = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        if len(again):
            pair = min((int(order[insertion]), int(order[insertion + 1])) for insertion in again)
            first, second = (clip(len(self._rows) + row) for row in pair)
            at_first, at_second = (int(places[row]) for row in pair)
            raise _duplicate(
                (first, second),
                (f"clip {at_first} of the source", f"clip {at_second}"),
                others=len(again) - 1,
            )

    def _compare(self, row: int, now: Clip, place: int) -> None:
        """Compares two rows of one id: new labels are recorded, new audio is an error."""
        before = self._clip(row)
        if before.clip_id != now.clip_id:
            raise _duplicate((before, now), ("a clip of the corpus", f"clip {place} of the source"))
        lengths = (before.likely_duration, now.likely_duration)
        is_guess = before.duration is None and now.duration is None
        members = tar_member(before.uri), tar_member(now.uri)
        is_same_tar = bool(members[0] and members[1] and members[0][0] == members[1][0])
        is_same_place = before.uri == now.uri or is_same_tar
        if (
            before.offset != now.offset
            or not is_same_place
            or not (is_guess or lengths[0] == lengths[1])
        ):
            raise UserError(
                f"{_changed(before, now, place)}; give the changed clip a new id, or build into "
                "another folder"
            )
        has_other_length = is_guess and bool(now.likely_duration) and lengths[0] != lengths[1]
        if members[0] != members[1] or (has_other_length and lengths[0] is not None):
            if not self._accept_changed_files:
                raise UserError(
                    f"{_changed(before, now, place)}; if its file was replaced, pass "
                    "--accept-changed-files, otherwise give the changed clip a new id"
                )
            self._changed_files.append(now.clip_id)
        if has_other_length and now.likely_duration:
            self.lengths[row] = now.likely_duration
        if before.uri != now.uri:
            self.uris[row] = now.uri
        if (before.text, before.labels) != (now.text, now.labels):
            self.relabelled[row] = now


def _changed(before: Clip, now: Clip, place: int) -> str:
    return (
        f"clip {now.clip_id!r} has changed: the corpus has {_audio(before)}, clip {place} of the "
        f"source has {_audio(now)}"
    )


def _hashes(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Computes 64-bit hashes of each row's id, and of all its other fields."""
    ids = table["clip_id"].to_pylist()
    columns = [table[name] for name in ("uri", "offset", "text", "labels")]
    rest = [column.to_pylist() for column in [*columns, likely_durations(table)]]
    return _hash(ids), _hash([repr(row) for row in zip(*rest, strict=True)])


def _hash(texts: Sequence[str]) -> np.ndarray:
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), np.uint64)


def _duplicate(clips: tuple[Clip, Clip], places: tuple[str, str], others: int = 0) -> UserError:
    first, second = clips
    rows = f"{places[0]} ({_audio(first)}) and {places[1]} ({_audio(second)})"
    more = f"; {others} more ids occur twice" if others else ""
    if first.clip_id != second.clip_id:
        return UserError(f"the ids {first.clip_id!r} and {second.clip_id!r} of {rows} hash alike")
    members = tar_member(first.uri), tar_member(second.uri)
    is_two_tars = bool(members[0] and members[1] and members[0][0] != members[1][0])
    cure = "append ?ids=tar to the source, which puts the tar's name before each id, or "
    return UserError(
        f"the clip id {first.clip_id!r} occurs twice, in {rows}{more}; "
        f"{cure if is_two_tars else ''}give each clip a unique id, or remove one"
    )


def _audio(clip: Clip) -> str:
    seconds = clip.likely_duration
    length = "to its end" if seconds is None else f"for {seconds:g} s"
    return f"{clip.uri} from {clip.offset:g} s {length}"
