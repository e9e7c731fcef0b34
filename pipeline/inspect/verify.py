"""Checks a cache for damage, reports the damaged shards, and can set them aside.

The quick check compares markers with listings (missing files, wrong sizes) and compares the audio
digests of the teachers. The deep check reads every byte: checksums, Parquet pages, all blobs, and
the ids of the corpus. `repair` moves damaged shards to the version's `quarantine` folder, so that
the next build creates exactly those again.

Builds may run in parallel. Markers are read before their files are listed, and apparent damage is
checked again, marker first, before it is reported and before a shard is moved.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.cache import audio_digests, shards, stored_rows
from manifests.cache.layout import Layout
from manifests.cache.shard_files import (
    DATA,
    FAILURES,
    QUARANTINE,
    data_file,
    failures_file,
    marker_file,
)
from manifests.cache.shards import Marker
from manifests.corpus.corpus import Corpus
from manifests.corpus.corpus_index import INDEX_FILE
from manifests.errors import UserError
from manifests.storage import Folder, in_parallel
from manifests.streams.specs import TeacherSpec
from manifests.uploads import PIECE
from manifests.wording import number_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One damaged file."""

    place: str
    """`NAME@FINGERPRINT`, or `corpora`."""
    corpus: str
    shard: int | None
    file: str
    what: str
    can_repair: bool = True
    """Whether setting the shard aside repairs it."""


def verify(layout: Layout, *, deep: bool = False) -> Iterator[Damage]:
    """Yields all damage, shard by shard."""
    for name in layout.corpora():
        try:
            corpus = layout.corpus(name)
        except UserError as error:
            yield Damage(
                place="corpora", corpus=name, shard=None, file=INDEX_FILE, what=str(error),
                can_repair=False,
            )  # fmt: skip
            continue
        yield from _verify_corpus(corpus, deep=deep)
        audio = _CheckedAudio(corpus)
        for spec in layout.teachers().values():
            folder = layout.shards(spec, name)
            yield from _verify_teacher(folder, spec, corpus, audio, deep=deep)


def _verify_corpus(corpus: Corpus, *, deep: bool) -> Iterator[Damage]:
    for part in corpus.parts:
        if deep and hashlib.sha256(corpus.folder.read_bytes(part.file)).hexdigest() != part.sha256:
            yield Damage(
                place="corpora", corpus=corpus.name, shard=None, file=part.file,
                what=f"its SHA-256 differs from the one in {INDEX_FILE}", can_repair=False,
            )  # fmt: skip


def _verify_teacher(
    folder: Folder, spec: TeacherSpec, corpus: Corpus, audio: _CheckedAudio, *, deep: bool
) -> Iterator[Damage]:
    def damage(number: int, file: str, what: str, *, can_repair: bool = True) -> Damage:
        return Damage(
            place=spec.key, corpus=corpus.name, shard=number, file=file, what=what,
            can_repair=can_repair,
        )  # fmt: skip

    def other_audio(number: int, marker: Marker, digest_N: np.ndarray | None) -> Iterator[Damage]:
        for clip_id, other in audio.compare(spec, number, marker, digest_N):
            yield damage(
                number, data_file(marker.data),
                f"clip {clip_id}: {other} processed different audio; to see which is right: "
                "coat-cache audit --content-only --sample 0", can_repair=False,
            )  # fmt: skip

    def read(number: int) -> bytes | None:
        return _read(folder, marker_file(number))

    numbers = shards.committed(folder)
    contents = map(read, numbers) if folder.is_local else in_parallel(read, numbers)
    suspects, markers = [], {}
    for number, content in zip(numbers, contents, strict=True):
        if content is None:
            continue
        try:
            marker = Marker.from_bytes(content)
        except ValueError:
            suspects.append(number)
            continue
        yield from other_audio(number, marker, marker.row_digests())
        markers[number] = replace(marker, sums={}, digests="", failed=())
    # Listed after the markers were read, so their files exist unless they are damaged.
    sizes = {name: folder.child(name).sizes() for name in (DATA, FAILURES)}
    for number, marker in markers.items():
        if deep or number >= corpus.num_shards or any(_quick(marker, sizes)):
            suspects.append(number)
    for number in sorted(suspects):
        content, findings = _check(folder, spec, corpus, number, deep=deep)
        for file, what in findings:
            yield damage(number, file, what)
        marker = Marker.from_bytes(content) if content and not findings else None
        if deep and marker is not None and not marker.digests:
            with folder.open(data_file(marker.data)) as source:
                digest_N = audio_digests.read(folder, marker, pq.ParquetFile(source))
            yield from other_audio(number, marker, digest_N)


class _CheckedAudio:
    """The audio digests of the teachers that were checked so far, over one corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._seen: dict[int, list[tuple[str, np.ndarray]]] = {}
        """Shard -> teacher and digest by position, 0 where there is none. Teachers that processed
        the same audio share an entry, so memory holds about 8 bytes per clip."""

    def compare(
        self, spec: TeacherSpec, number: int, marker: Marker, digest_N: np.ndarray | None
    ) -> Iterator[tuple[str, str]]:
        """Yields (clip id, other teacher) where digests differ from those of earlier teachers."""
        if digest_N is None or number >= self._corpus.num_shards:
            return
        by_position = np.zeros(marker.clips, ">u8")
        if len(digest_N) == marker.clips:
            by_position[:] = digest_N
        else:
            ids = self._corpus.shard_ids(number)
            failed = {failure.clip_id for failure in marker.failed}
            present = [place for place, clip_id in enumerate(ids) if clip_id not in failed]
            if len(present) != len(digest_N) or len(ids) != marker.clips:
                return
            by_position[present] = digest_N
        known = self._seen.setdefault(number, [])
        differing = {}
        for other, theirs in known:
            if len(theirs) == len(by_position):
                both = (theirs != 0) & (by_position != 0) & (theirs != by_position)
                differing |= {int(place): other for place in np.flatnonzero(both)}
        if differing:
            ids = self._corpus.shard_ids(number)
            yield from ((ids[place], other) for place, other in differing.items())
        if not any(np.array_equal(theirs, by_position) for _, theirs in known):
            known.append((spec.key, by_position))


def _check(
    folder: Folder, spec: TeacherSpec, corpus: Corpus, number: int, *, deep: bool
) -> tuple[bytes | None, list[tuple[str, str]]]:
    """Reads a shard's current marker and checks its files; returns no damage if the marker is
    gone."""
    name = marker_file(number)
    for _ in range(3):
        content = _read(folder, name)
        if content is None:
            break
        findings = list(_check_content(folder, spec, corpus, number, content, deep=deep))
        # A build that replaced the marker meanwhile has also replaced its files.
        if not findings or _read(folder, name) == content:
            return content, findings
    return None, []


def _read(folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read_bytes(name)
    except FileNotFoundError:
        return None


def _check_content(
    folder: Folder, spec: TeacherSpec, corpus: Corpus, number: int, content: bytes, *, deep: bool
) -> Iterator[tuple[str, str]]:
    name = marker_file(number)
    try:
        marker = Marker.from_bytes(content)
    except ValueError as error:
        yield name, f"not a marker: {error}"
        return
    if number >= corpus.num_shards:
        yield name, f"the corpus has only {number_of(corpus.num_shards, 'shard')}"
        return
    sizes = {
        part: {file: size} if (size := folder.size(f"{part}/{file}")) is not None else {}
        for part, file in ((DATA, marker.data), (FAILURES, marker.failures_data or "-"))
    }
    findings = list(_quick(marker, sizes))
    if not findings and deep:
        findings = list(_deep(folder, marker, spec, corpus.shard_ids(number)))
    yield from findings


def _quick(marker: Marker, sizes: dict[str, dict[str, int]]) -> Iterator[tuple[str, str]]:
    size = sizes[DATA].get(marker.data)
    if size is None:
        yield data_file(marker.data), "missing"
    elif size != marker.data_bytes:
        yield data_file(marker.data), f"{size} bytes, the marker says {marker.data_bytes}"
    if marker.failures_data and marker.failures_data not in sizes[FAILURES]:
        yield failures_file(marker.failures_data), "missing"
    if marker.rows + sum(marker.failures.values()) != marker.clips:
        yield marker_file(marker.shard), "its counts do not add up"


def _deep(
    folder: Folder, marker: Marker, spec: TeacherSpec, ids: list[str]
) -> Iterator[tuple[str, str]]:
    for file, expected in (
        (data_file(marker.data), marker.data_sha256),
        (failures_file(marker.failures_data), marker.failures_sha256),
    ):
        if expected and _sha256(folder, file) != expected:
            yield file, "its SHA-256 is not the marker's"
            return
    if shards.digest_ids(ids) != marker.clips_digest:
        yield marker_file(marker.shard), "made from other clips"
    try:
        failed = {failure.clip_id for failure in shards.read_failures(folder, marker)}
        expected = (clip_id for clip_id in ids if clip_id not in failed)
        rows = stored_rows.iterate_rows(folder, marker, spec)
        digests = []
        for row, clip_id in itertools.zip_longest(rows, expected):
            if row is None or row.clip_id != clip_id:
                yield data_file(marker.data), "its rows are not the corpus's clips in their order"
                return
            digests.append(row.audio_digest)
            for stream, frames in row.frames.items():
                try:
                    frames.decode()
                except ValueError as error:
                    yield data_file(marker.data), f"clip {row.clip_id}, stream {stream}: {error}"
    except (OSError, pa.ArrowException, KeyError, TypeError, json.JSONDecodeError) as error:
        yield data_file(marker.data), f"not readable: {error}"
        return
    stated = marker.row_digests()
    if stated is not None and not np.array_equal(stated, shards.hash_digests(digests)):
        yield data_file(marker.data), "its audio digests are not the marker's"


def _sha256(folder: Folder, name: str) -> str:
    digest = hashlib.sha256()
    with folder.open(name) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def repair(layout: Layout, damages: Iterable[Damage], *, deep: bool) -> tuple[int, int]:
    """Sets aside the shards that are still damaged, checking each again immediately before.

    Returns:
        Number of shards that were set aside, and of shards that are intact by now.
    """
    moved = whole = 0
    places = {
        (damage.place, damage.corpus, damage.shard)
        for damage in damages
        if damage.can_repair and damage.shard is not None
    }
    versions = layout.teachers()
    for teacher, corpus, number in sorted(places):
        spec, folder = versions[teacher], layout.shards(versions[teacher], corpus)
        content, findings = _check(folder, spec, layout.corpus(corpus), number, deep=deep)
        if (
            content is not None
            and findings
            and quarantine(layout, teacher, corpus, number, content)
        ):
            moved += 1
        else:
            whole += 1
    return moved, whole


def quarantine(
    layout: Layout, teacher: str, corpus: str, shard: int, judged: bytes | None = None
) -> bool:
    """Sets a shard aside: its marker first, so that no reader sees an incomplete shard.

    Only files that this marker refers to are moved. If a build commits the shard again meanwhile,
    its files stay: files that the new marker refers to, or that have changed, are not moved.

    Args:
        layout: The cache.
        teacher: `NAME@FINGERPRINT`.
        corpus: Name.
        shard: Number.
        judged: Content of the marker that was checked; a different marker is not moved.

    Returns:
        Whether the shard was set aside.
    """
    folder = layout.root.child("teachers").child(teacher).child(corpus)
    name = marker_file(shard)
    content = _read(folder, name)
    if content is None or (judged is not None and content != judged):
        return False
    named = _named_files(shard, content)
    stamps = {file: folder.stamp(file) for file in named}
    # `compact` computes the age from the time in the name.
    prefix = f"{QUARANTINE}/{datetime.now(UTC):%Y%m%dT%H%M%S}Z-"
    kept = prefix + name.replace("/", "-")
    folder.move(name, kept)
    if _read(folder, kept) != content:
        # Another job replaced the marker between the last check and the move.
        if _read(folder, name) is None:
            folder.move(kept, name)
        return False
    for file in named:
        renewed = _named_files(shard, _read(folder, name) or b"")
        stamp = folder.stamp(file)
        if stamp is not None and stamp == stamps[file] and file not in renewed:
            folder.move(file, prefix + file.replace("/", "-"))
    return True


def _named_files(shard: int, marker: bytes) -> list[str]:
    """The files of the shard that its marker refers to."""
    try:
        fields = Marker.from_bytes(marker)
    except ValueError:
        return []
    named = [(DATA, fields.data), (FAILURES, fields.failures_data)]
    return [f"{part}/{file}" for part, file in named if file.startswith(f"{shard:07d}-")]
