"""A corpus: the ordered list of clips that teachers run over and students train on.

    CORPUS/
      corpus.json            name, clips per shard, parts; replaced atomically, and last
      clips-00000.parquet    up to 65,536 clips, `manifests.clips.SCHEMA`

A row group of a part is a shard, the unit of a teacher's work. The clips of a shard never change: a
corpus grows by added parts. New texts and labels are taken on request (`manifests.corpus.relabel`);
different audio under a known id is an error. The disadvantage: the last shard of each build stays
short.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.clips import Clip, describe_ids, from_table, likely_durations, to_table
from manifests.corpus import relabel, shard_sizes
from manifests.corpus.corpus_index import (
    CLIPS_PER_PART,
    CLIPS_PER_SHARD,
    INDEX_FILE,
    CorpusIndex,
    Part,
    is_part,
    next_part_file,
)
from manifests.corpus.duplicate_index import DuplicateIndex
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.wording import number_of

log = logging.getLogger(__name__)

OPEN_FILES = 16
"""Parts kept open by a corpus (footers parsed, memory-mapped where local)."""
BATCH = 4096
"""Number of clips that a build processes together."""


class Corpus:
    """A corpus, open for reading: a local folder or an address such as `s3://BUCKET/KEY`.

    Args:
        path: Folder or address of the corpus.
        contents: The content of corpus.json, if it is already known.

    Raises:
        UserError: there is no corpus, an incomplete one, or one of a newer format.
    """

    def __init__(self, path: str | Path, contents: CorpusIndex | None = None) -> None:
        self.folder = Folder(path)
        self.contents = contents or CorpusIndex.read(self.folder)
        self.name = self.contents.name
        self.parts = self.contents.parts
        self.num_clips = sum(part.clips for part in self.parts)
        self.num_shards = sum(part.shards for part in self.parts)
        self.seconds = sum(part.seconds for part in self.parts)
        self.relabelled: tuple[str, ...] = ()
        """Clips whose text or labels `build` has just updated."""
        self._file = functools.lru_cache(OPEN_FILES)(self._open)

    def parts_for(self, other: CorpusIndex) -> tuple[Part, ...]:
        """The parts as another index describes them, which may have another number of clips."""
        sizes = [self.contents.shard_size(part) for part in self.parts]
        return tuple(
            replace(part, clips_per_shard=None if size == other.clips_per_shard else size)
            for part, size in zip(self.parts, sizes, strict=True)
        )

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of the parts; it changes with any clip."""
        return hashlib.sha256("".join(part.sha256 for part in self.parts).encode()).hexdigest()

    def shard_sizes(self) -> list[int]:
        """Returns the number of clips of every shard, without opening a part."""
        sizes: list[int] = []
        for part in self.parts:
            full = self.contents.shard_size(part)
            sizes += [min(full, part.clips - full * group) for group in range(part.shards)]
        return sizes

    def shard(self, number: int) -> list[Clip]:
        """The clips of one shard, in order; reads only that row group."""
        return from_table(self._read(number))

    def shard_ids(self, number: int) -> list[str]:
        """The ids of one shard's clips, in order; reads only that column."""
        return self._read(number, ["clip_id"]).column(0).to_pylist()

    def clips(self) -> Iterator[Clip]:
        """Yields all clips in order, with one shard in memory."""
        for table in self.tables():
            yield from from_table(table)

    def tables(self) -> Iterator[pa.Table]:
        """Yields all clips in order, as one table for each shard."""
        return map(self._read, range(self.num_shards))

    def clip(self, row: int) -> Clip:
        """The clip with this position in the corpus."""
        for part in self.parts:
            if row < part.clips:
                group, place = divmod(row, self.contents.shard_size(part))
                return from_table(self._read(part.first_shard + group).slice(place, 1))[0]
            row -= part.clips
        raise IndexError(f"{self.folder.uri} has {self.num_clips} clips")

    def locate(self, shard: int) -> tuple[int, int]:
        """Returns the position of a shard's part in `parts`, and its row group in the part.

        Raises:
            IndexError: the corpus has no such shard.
        """
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"{self.folder.uri} has no shard {shard}, only {self.num_shards}")
        ordinal = bisect_right(self.parts, shard, key=lambda part: part.first_shard) - 1
        return ordinal, shard - self.parts[ordinal].first_shard

    def _read(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        ordinal, group = self.locate(shard)
        return self._file(ordinal).read_row_group(group, columns=columns, use_threads=False)

    def _open(self, ordinal: int) -> pq.ParquetFile:
        source = self.folder.open(self.parts[ordinal].file, memory_map=True)
        return pq.ParquetFile(source, page_checksum_verification=True)


def build(
    clips: Iterable[Clip],
    out: str | Path,
    *,
    name: str | None = None,
    clips_per_shard: int | None = None,
    update_labels: bool = False,
    accept_changed_files: bool = False,
    check_held: Callable[[], None] | None = None,
) -> Corpus:
    """Creates a corpus, or adds the clips whose ids are new to the corpus at `out`.

    Readers see no change before the last clip is written, and existing parts are not modified.
    Memory holds one part, 24 bytes for each clip, and the clips with new labels.

    Args:
        clips: All clips of the source, always in the same order. `lengths.fill` adds the lengths
            that the source does not state.
        out: Folder or address of the corpus.
        name: Name of a new corpus; that of the folder if None.
        clips_per_shard: Maximum number of clips per shard of a new corpus; 256 if None. Shards of
            long clips have fewer (`manifests.corpus.shard_sizes`).
        update_labels: Update the text and labels of existing clips to those in the source;
            otherwise they stay unchanged, and a warning lists the clips.
        accept_changed_files: Accept files whose header states another length than before.
        check_held: Raises an error if another process has taken over the folder; called before
            each write (`manifests.corpus.build_folder`).

    Raises:
        UserError: an id occurs twice, a clip of the corpus has changed, there are no clips, or the
            corpus at `out` has another name or shard size than asked for.
    """
    folder, check_held = Folder(out), check_held or (lambda: None)
    batches = _batches(clips)
    if folder.exists(INDEX_FILE):
        before = Corpus(out)
        _check_same(before, name, clips_per_shard)
    else:
        named = name or Path(folder.path("")).name
        size = CLIPS_PER_SHARD if clips_per_shard is None else clips_per_shard
        before = Corpus(out, CorpusIndex(name=named, clips_per_shard=size))

    ledger = DuplicateIndex(
        before.tables(), before.clip, part_sizes=[part.clips for part in before.parts],
        accept_changed_files=accept_changed_files,
    )  # fmt: skip
    contents = before.contents
    for table, size in _parts((ledger.admit(batch) for batch in batches), contents.clips_per_shard):
        check_held()
        contents = _add_part(folder, contents, table, size)
    after = Corpus(out, contents)
    if not after.num_clips:
        raise UserError("the source has no clips; nothing was written")
    ledger.close(after.clip)
    check_held()
    relabelled = ledger.relabelled if update_labels else {}
    if relabelled or ledger.lengths or ledger.uris:
        contents = _with_changes(after, relabelled, ledger.lengths, ledger.uris)
        after = Corpus(out, contents)
    if relabelled:
        after.relabelled = tuple(clip.clip_id for clip in ledger.relabelled.values())
    elif ledger.relabelled:
        ids = describe_ids([clip.clip_id for clip in ledger.relabelled.values()])
        log.warning(
            "%s another text or other labels in the source: %s; the corpus keeps the "
            "old ones. To take the new ones, run the same command with --update-labels; no "
            "target is recomputed",
            number_of(len(ledger.relabelled), "clip has", "clips have"), ids,
        )  # fmt: skip
    check_held()
    if contents != before.contents:
        folder.write_atomic(INDEX_FILE, contents.to_bytes())
    _delete_replaced(folder, before.contents, contents)
    return after


def _check_same(corpus: Corpus, name: str | None, clips_per_shard: int | None) -> None:
    has = corpus.contents
    for what, stored, asked in (
        ("name", has.name, name),
        ("clips_per_shard", has.clips_per_shard, clips_per_shard),
    ):
        if asked not in (None, stored):
            raise UserError(
                f"the corpus at {corpus.folder.uri} has {what} {stored!r}, asked for {asked!r}; "
                "it cannot change: leave the option out, or build into another folder"
            )


def _parts(batches: Iterable[pa.Table], at_most: int) -> Iterator[tuple[pa.Table, int]]:
    """The clips of each new part, and the number of them in a shard."""
    waiting, size = to_table([]), at_most
    for batch in batches:
        if not len(batch):
            continue
        fitting = shard_sizes.next_size(batch, size if len(waiting) else None, at_most)
        if len(waiting) and fitting != size:
            yield waiting, size
            waiting = to_table([])
        waiting, size = pa.concat_tables([waiting, batch]), fitting
        whole_shards = CLIPS_PER_PART // size * size
        while len(waiting) >= whole_shards:
            yield waiting.slice(0, whole_shards), size
            waiting = waiting.slice(whole_shards)
    if len(waiting):
        yield waiting, size


def _batches(clips: Iterable[Clip]) -> Iterator[pa.Table]:
    remaining = iter(clips)
    while batch := list(itertools.islice(remaining, BATCH)):
        try:
            yield to_table(batch)
        except UnicodeEncodeError as error:
            raise UserError(
                f"{error.object!r} is not Unicode text; rename the file or correct the row"
            ) from None


def _add_part(folder: Folder, contents: CorpusIndex, table: pa.Table, size: int) -> CorpusIndex:
    """Writes a part, and returns the contents of the corpus with it."""
    first_shard = sum(part.shards for part in contents.parts)
    part = _write_part(folder, contents, table, first_shard=first_shard, size=size)
    return replace(contents, parts=(*contents.parts, part))


def _write_part(
    folder: Folder, contents: CorpusIndex, table: pa.Table, *, first_shard: int, size: int
) -> Part:
    """Writes a part under a number that no part of the corpus has ever had."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=size,
        compression="zstd",
        write_page_checksum=True,
    )
    data = sink.getvalue()
    part = Part(
        file=next_part_file(part.file for part in contents.parts),
        clips=len(table),
        shards=-(-len(table) // size),
        first_shard=first_shard,
        seconds=round(likely_durations(table).drop_null().to_numpy().sum().item(), 6),
        bytes=data.size,
        sha256=hashlib.sha256(data).hexdigest(),
        clips_per_shard=None if size == contents.clips_per_shard else size,
    )
    folder.write_atomic(part.file, data)
    return part


def _with_changes(
    corpus: Corpus,
    relabelled: Mapping[int, Clip],
    lengths: Mapping[int, float],
    uris: Mapping[int, str],
) -> CorpusIndex:
    """Rewrites the parts of these rows with new texts and labels, lengths or addresses, and returns
    the new contents."""
    contents = corpus.contents
    labels_by_part = relabel.rows_by_part(corpus, relabelled)
    lengths_by_part = relabel.rows_by_part(corpus, lengths)
    uris_by_part = relabel.rows_by_part(corpus, uris)
    for ordinal in sorted({*labels_by_part, *lengths_by_part, *uris_by_part}):
        old = contents.parts[ordinal]
        with corpus.folder.open(old.file) as source:
            table = relabel.update_table(
                pq.read_table(source), labels_by_part.get(ordinal, {}),
                lengths_by_part.get(ordinal, {}), uris_by_part.get(ordinal, {}),
            )  # fmt: skip
        new = _write_part(
            corpus.folder, contents, table,
            first_shard=old.first_shard, size=contents.shard_size(old),
        )  # fmt: skip
        parts = (*contents.parts[:ordinal], new, *contents.parts[ordinal + 1 :])
        contents = replace(contents, parts=parts)
    return contents


def _delete_replaced(folder: Folder, before: CorpusIndex, after: CorpusIndex) -> None:
    """Deletes parts of killed builds and parts that an earlier update replaced.

    Parts replaced by this update stay for now.
    """
    named = {part.file for part in (*before.parts, *after.parts)}
    for file in folder.sizes():
        if is_part(file) and file not in named:
            folder.delete(file)
