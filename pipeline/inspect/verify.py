"""Is the cache what its markers say? Finds damage, names the shard, and can set it aside.

The quick check compares markers with listings: what is missing or has another size. The deep one
reads every byte: checksums, Parquet pages, every blob decoded, ids against the corpus. Repair moves
damaged shards into the version's `quarantine` folder, so that the next build refills exactly those.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from manifests.cache import shards
from manifests.cache.layout import Layout
from manifests.cache.shards import Marker
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.streams.specs import TeacherSpec

QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is not as it should be."""

    place: str
    """`NAME@FINGERPRINT`, or `corpora`."""
    corpus: str
    shard: int | None
    file: str
    what: str


def verify(layout: Layout, *, deep: bool = False) -> Iterator[Damage]:
    """Everything that is damaged, shard by shard."""
    for name in layout.corpora():
        try:
            corpus = layout.corpus(name)
        except UserError as error:
            yield Damage(
                place="corpora", corpus=name, shard=None, file="corpus.json", what=str(error)
            )
            continue
        yield from _verify_corpus(corpus, deep=deep)
        for spec in layout.teachers().values():
            yield from _verify_teacher(layout.shards(spec, name), spec, corpus, deep=deep)


def _verify_corpus(corpus: Corpus, *, deep: bool) -> Iterator[Damage]:
    for part in corpus.parts:
        if deep and hashlib.sha256(corpus.folder.read_bytes(part.file)).hexdigest() != part.sha256:
            yield Damage(
                place="corpora", corpus=corpus.name, shard=None, file=part.file,
                what="its SHA-256 is not the one in corpus.json",
            )  # fmt: skip


def _verify_teacher(
    folder: Folder, spec: TeacherSpec, corpus: Corpus, *, deep: bool
) -> Iterator[Damage]:
    sizes = {name: folder.child(name).sizes() for name in ("data", "failures")}
    for number, content in shards.marker_files(folder):
        name = shards.marker_name(number)

        def damage(file: str, what: str, number: int = number) -> Damage:
            return Damage(place=spec.key, corpus=corpus.name, shard=number, file=file, what=what)

        try:
            marker = Marker.from_bytes(content)
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            yield damage(f"markers/{name}", f"not a marker: {error}")
            continue
        if number >= corpus.num_shards:
            yield damage(f"markers/{name}", f"the corpus has only {corpus.num_shards} shards")
            continue
        found = list(_quick(marker, sizes)) or (
            list(_deep(folder, marker, spec, corpus.shard_ids(number))) if deep else []
        )
        for file, what in found:
            yield damage(file, what)


def _quick(marker: Marker, sizes: dict[str, dict[str, int]]) -> Iterator[tuple[str, str]]:
    size = sizes["data"].get(marker.data)
    if size is None:
        yield f"data/{marker.data}", "missing"
    elif size != marker.data_bytes:
        yield f"data/{marker.data}", f"{size} bytes, the marker says {marker.data_bytes}"
    if marker.failures_data and marker.failures_data not in sizes["failures"]:
        yield f"failures/{marker.failures_data}", "missing"
    if marker.rows + sum(marker.failures.values()) != marker.clips:
        yield f"markers/{shards.marker_name(marker.shard)}", "its counts do not add up"


def _deep(
    folder: Folder, marker: Marker, spec: TeacherSpec, ids: list[str]
) -> Iterator[tuple[str, str]]:
    for file, digest in (
        (f"data/{marker.data}", marker.data_sha256),
        (f"failures/{marker.failures_data}", marker.failures_sha256),
    ):
        if digest and hashlib.sha256(folder.read_bytes(file)).hexdigest() != digest:
            yield file, "its SHA-256 is not the marker's"
            return
    if shards.digest_ids(ids) != marker.clips_digest:
        yield f"markers/{shards.marker_name(marker.shard)}", "made from other clips"
    try:
        rows = shards.read_rows(folder, marker, spec)
        failed = {failure.clip_id for failure in shards.read_failures(folder, marker)}
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        yield f"data/{marker.data}", f"not readable: {error}"
        return
    if [row.clip_id for row in rows] != [clip_id for clip_id in ids if clip_id not in failed]:
        yield f"data/{marker.data}", "its rows are not the corpus's clips in their order"
    for row in rows:
        for stream, frames in row.frames.items():
            try:
                frames.decode()
            except ValueError as error:
                yield f"data/{marker.data}", f"clip {row.clip_id}, stream {stream}: {error}"


def quarantine(layout: Layout, teacher: str, corpus: str, shard: int) -> None:
    """Sets a shard aside: its marker first, so that no reader meets the rest."""
    folder = layout.root.child("teachers").child(teacher).child(corpus)
    name = shards.marker_name(shard)
    files = [f"data/{file}" for file in folder.child("data").names() if _of(file, shard)]
    files += [f"failures/{file}" for file in folder.child("failures").names() if _of(file, shard)]
    for file in [f"markers/{name}", *files]:
        if folder.exists(file):
            folder.move(file, f"{QUARANTINE}/{file.replace('/', '-')}")


def _of(file: str, shard: int) -> bool:
    return file.startswith(f"{shard:07d}-")
