"""The folders and files of a cache.

    CACHE/
      cache.json                        format version
      corpora/CORPUS/                   a copy of the corpus: corpus.json, clips-*.parquet
      teachers/NAME@FINGERPRINT/
        spec.json                       the version, `manifests.streams.specs.TeacherSpec`
        CORPUS/markers/0000000.json     commit marker, written last: its presence means complete
        CORPUS/data/0000000-SHA.parquet targets
        CORPUS/index/0000000.parquet    the markers, compacted (`manifests.cache.marker_index`)
      teachers/NAME.use.json            the version that readers get, where one was chosen

Teachers and jobs share only cache.json. Everything else is discovered by listing folders, so
concurrent jobs cannot lose each other's entries.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.cache import marker_index, shards
from manifests.clips import from_table
from manifests.corpus.corpus import Corpus
from manifests.corpus.corpus_index import CACHE_FILE, INDEX_FILE, Part, is_part, next_part_file
from manifests.corpus.relabel import same_audio
from manifests.errors import UserError
from manifests.new_folder import check_is_free
from manifests.storage import Folder, in_parallel
from manifests.streams.specs import TeacherSpec
from manifests.wording import number_of

log = logging.getLogger(__name__)

FORMAT = 2
"""Version of the cache's format. A reader rejects newer versions and reads all older ones. A build
that adds to a cache of an older format raises its number. In version 2, markers contain failures,
audio digests and library versions."""
OWN_FOLDERS = ("corpora", "teachers")
"""Folders of a cache."""
NAME = re.compile(r"\w[\w.-]*")
"""Names of teachers and corpora, which are names of folders, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentVersion:
    """The version of a teacher that readers get if they request the teacher by name alone."""

    spec: TeacherSpec
    why: str
    """`only version`, `chosen`, `newest complete`, `most shards` or `no targets yet`."""
    newest: TeacherSpec
    """The version that was created last."""
    progress: dict[str, str]
    """`NAME@FINGERPRINT` -> progress of that version, e.g. `3 of 12 shards`."""

    @property
    def notice(self) -> str | None:
        """A one-line notice if a newer version exists that readers do not get by default."""
        if self.spec.key == self.newest.key or self.why == "chosen":
            return None
        return (
            f"{self.spec.name} is read from {self.spec.key} ({self.why}); the newer "
            f"{self.newest.key} has {self.progress[self.newest.key]}; to choose: coat-cache use "
            f"NAME@FINGERPRINT"
        )


def check_teacher_name(name: str) -> None:
    """Rejects a name that cannot be the name of a folder.

    Raises:
        UserError: it has other characters than letters, digits, `_`, `-` and `.`.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"the teacher name {name!r} must be letters, digits, '_', '-' and '.'")


class Layout:
    """Paths and listings of one cache."""

    def __init__(self, uri: str | Path) -> None:
        self.root = Folder(uri)

    @classmethod
    def open(cls, uri: str | Path) -> Layout:
        """Opens an existing cache.

        Raises:
            UserError: there is no cache, or its format is newer than this version can read.
        """
        layout = cls(uri)
        version = layout._format()
        if version is None:
            layout.root.check_bucket()
            raise UserError(
                f"{uri} is not a teacher cache (it has no {CACHE_FILE}); "
                "check the path, or make one with: coat-cache build --corpus CORPUS --cache CACHE"
            )
        if version > FORMAT:
            raise UserError(
                f"{uri} has cache format {version}, this version reads up to {FORMAT}; "
                "upgrade coat-distill"
            )
        return layout

    @classmethod
    def create(cls, uri: str | Path) -> Layout:
        """Opens the cache at an address for writing, and creates it if it does not exist."""
        layout = cls.planned(uri)
        if (layout._format() or 0) < FORMAT:
            layout.root.write_atomic(CACHE_FILE, json.dumps({"format": FORMAT}).encode())
        return layout

    @classmethod
    def planned(cls, uri: str | Path) -> Layout:
        """The cache at an address, which does not have to exist yet. Nothing is written.

        Raises:
            UserError: its format is newer than this version reads, its bucket does not exist, or
                it is a folder of other files.
        """
        layout = cls(uri)
        layout.root.check_bucket()
        if layout._format() is not None:
            return cls.open(uri)
        check_is_free(
            layout.root,
            what="teacher cache",
            index=CACHE_FILE,
            is_own=OWN_FOLDERS.__contains__,
            other=("corpus", INDEX_FILE),
        )
        return layout

    def _format(self) -> int | None:
        try:
            version = json.loads(self.root.read_bytes(CACHE_FILE))["format"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            version = None
        if not isinstance(version, int):
            raise UserError(
                f"{self.root.uri}/{CACHE_FILE} is not in the format of this project; restore it"
            )
        return version

    def corpora(self) -> list[str]:
        """Names of the corpora, sorted."""
        return self.root.child("corpora").folders()

    def corpus(self, name: str) -> Corpus:
        """The cache's copy of a corpus."""
        return Corpus(f"{self.root.uri}/corpora/{name}")

    def register(self, corpus: Corpus) -> int:
        """Copies a corpus into the cache: only the parts that are new or have new labels.

        Returns:
            Number of copied parts.

        Raises:
            UserError: the cache has another corpus of this name.
        """
        kept, new_parts = self.compare(corpus)
        if not new_parts:
            return 0
        target = self.root.child("corpora").child(corpus.name)
        taken = {file for file in target.sizes() if is_part(file)}
        parts = list(kept)
        for part in new_parts:
            # An open reader may still be reading the file that is replaced.
            file = next_part_file(taken) if part.file in taken else part.file
            taken.add(file)
            target.write_atomic(file, corpus.folder.read_bytes(part.file))
            parts.append(replace(part, file=file))
        parts.sort(key=lambda part: part.first_shard)
        target.write_atomic(INDEX_FILE, replace(corpus.contents, parts=tuple(parts)).to_bytes())
        return len(new_parts)

    def compare(self, corpus: Corpus) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """Returns the parts of a corpus that the cache has, and those that it still has to copy.

        Parts are compared by their rows, because another version of pyarrow writes other bytes for
        the same rows. A part with other texts or labels for the same audio replaces the one in the
        cache.

        Raises:
            UserError: the cache has another corpus of this name.
        """
        folder = self.root.child("corpora").child(corpus.name)
        stored = self.corpus(corpus.name) if folder.exists(INDEX_FILE) else None
        known = () if stored is None else stored.parts_for(corpus.contents)
        kept: list[Part] = []
        new_parts = list(corpus.parts[len(known) :])
        for ours, theirs in zip(known, corpus.parts, strict=False):
            if ours.sha256 == theirs.sha256 or self._same(corpus, ours, theirs, _same_rows):
                kept.append(ours)
            elif self._same(corpus, ours, theirs, same_audio):
                new_parts.append(theirs)
            else:
                raise UserError(
                    f"the cache has a corpus {corpus.name!r} whose {ours.file} differs from "
                    f"{corpus.folder.uri}/{theirs.file}; a corpus only grows by added parts: "
                    f"go on with the old corpus ({self.root.uri}/corpora/{corpus.name} is its "
                    "copy), or build the new one into a new folder with another --name"
                )
        kept.extend(known[len(corpus.parts) :])
        for part in corpus.parts:
            if not is_part(part.file):
                raise UserError(
                    f"{corpus.folder.uri}/{INDEX_FILE} names the part {part.file!r}, which is no "
                    "name that coat-corpus writes; restore it"
                )
        return tuple(kept), tuple(new_parts)

    def _same(
        self,
        corpus: Corpus,
        ours: Part,
        theirs: Part,
        same: Callable[[pa.Table, pa.Table], bool],
    ) -> bool:
        """Whether two parts have the same shards, and tables that `same` considers equal."""
        if (ours.clips, ours.shards, ours.first_shard, ours.clips_per_shard) != (
            theirs.clips, theirs.shards, theirs.first_shard, theirs.clips_per_shard,
        ):  # fmt: skip
            return False
        with (
            self.corpus(corpus.name).folder.open(ours.file) as old,
            corpus.folder.open(theirs.file) as new,
        ):
            return same(pq.read_table(old), pq.read_table(new))

    def add_teacher(self, spec: TeacherSpec) -> None:
        """Writes a version's spec.json, unless it is there.

        Raises:
            UserError: the teacher's name cannot be the name of a folder.
        """
        check_teacher_name(spec.name)
        folder = self.root.child("teachers").child(spec.key)
        if not folder.exists("spec.json"):
            folder.write_atomic("spec.json", spec.to_json().encode())

    def teachers(self) -> dict[str, TeacherSpec]:
        """Returns the spec of every version by `NAME@FINGERPRINT`, oldest first.

        Raises:
            UserError: the name of a folder does not match the spec in it.
        """
        folder = self.root.child("teachers")

        def read(key: str) -> TeacherSpec | None:
            try:
                text = folder.child(key).read_bytes("spec.json").decode()
            except FileNotFoundError:
                return None
            try:
                spec = TeacherSpec.from_json(text)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{folder.uri}/{key}/spec.json is not in the format of this project "
                    f"({error}); restore it"
                ) from None
            if spec.key != key or not NAME.fullmatch(spec.name):
                raise UserError(
                    f"{folder.uri}/{key}/spec.json describes {spec.key!r}; restore the right one"
                )
            return spec

        specs = [spec for spec in in_parallel(read, folder.folders()) if spec is not None]
        return {spec.key: spec for spec in sorted(specs, key=lambda spec: spec.created)}

    def use(self, spec: TeacherSpec) -> None:
        """Selects the version that readers get, until `use_newest_complete` is called."""
        content = json.dumps({"use": spec.key}).encode()
        self.root.child("teachers").write_atomic(f"{spec.name}.use.json", content)

    def use_newest_complete(self, name: str) -> None:
        """Removes the selection made by `use`, so that `current` decides again."""
        if self.root.child("teachers").exists(f"{name}.use.json"):
            self.root.child("teachers").delete(f"{name}.use.json")

    def current(self, corpora: Sequence[str] | None = None) -> dict[str, TeacherSpec]:
        """Returns the version that readers get, by teacher name; see `current_versions`."""
        return {name: version.spec for name, version in self.current_versions(corpora).items()}

    def current_versions(self, corpora: Sequence[str] | None = None) -> dict[str, CurrentVersion]:
        """Chooses the version that readers get, with the reason, by teacher name.

        The version chosen by `coat-cache use` comes first, then the newest complete version, then
        the one with most shards. A version is complete if it has every shard of each corpus that
        any version of the teacher was run on. A version without rows is never selected if another
        version has rows.

        Args:
            corpora: Names of the corpora to consider; all if None.
        """
        by_name: dict[str, list[TeacherSpec]] = {}
        for spec in self.teachers().values():
            by_name.setdefault(spec.name, []).append(spec)
        names = self.corpora() if corpora is None else corpora
        versions = in_parallel(lambda specs: self._current(specs, names), list(by_name.values()))
        return dict(zip(by_name, versions, strict=True))

    def _current(self, specs: list[TeacherSpec], corpora: Sequence[str]) -> CurrentVersion:
        newest = specs[-1]
        if len(specs) == 1:
            why = "chosen" if self.chosen(newest.name) == newest.key else "only version"
            return CurrentVersion(spec=newest, why=why, newest=newest, progress={})
        done = {
            (spec.key, corpus): len(shards.committed(self.shards(spec, corpus)))
            for spec in specs
            for corpus in corpora
        }
        touched = [name for name in corpora if any(done[spec.key, name] for spec in specs)]
        total = sum(self.corpus(name).num_shards for name in touched)
        counts = {spec.key: sum(done[spec.key, name] for name in touched) for spec in specs}
        has_rows = {
            spec.key: counts[spec.key] > 0 and self._has_rows(spec, touched) for spec in specs
        }
        progress = {
            spec.key: f"{counts[spec.key]:,} of {number_of(total, 'shard')}"
            if has_rows[spec.key] or not counts[spec.key]
            else "no targets, only failures"
            for spec in specs
        }
        chosen = self.chosen(newest.name)
        for spec in specs:
            if spec.key == chosen:
                return CurrentVersion(spec=spec, why="chosen", newest=newest, progress=progress)
        if chosen:
            log.warning("%s was chosen by `coat-cache use` and is no longer in the cache", chosen)
        best = max(
            enumerate(specs),
            key=lambda item: (
                has_rows[item[1].key],
                counts[item[1].key] == total,
                counts[item[1].key] if counts[item[1].key] < total else 0,
                item[0],
            ),
        )[1]
        why = "newest complete" if counts[best.key] == total else "most shards"
        if not has_rows[best.key]:
            why = "no targets yet"
        return CurrentVersion(spec=best, why=why, newest=newest, progress=progress)

    def chosen(self, name: str) -> str | None:
        """The version of a teacher that `use` selected, as `NAME@FINGERPRINT`, or None."""
        try:
            return json.loads(self.root.read_bytes(f"teachers/{name}.use.json"))["use"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.root.uri}/teachers/{name}.use.json is not what we write; run: coat-cache "
                f"use {name}@FINGERPRINT"
            ) from None

    def _has_rows(self, spec: TeacherSpec, corpora: Sequence[str]) -> bool:
        return any(
            marker.rows
            for corpus in corpora
            for marker in marker_index.read_markers(self.shards(spec, corpus))
        )

    def teacher(self, name: str) -> TeacherSpec:
        """Returns a version by `NAME@FINGERPRINT`, or the current version of `NAME`.

        Raises:
            UserError: the cache has no such teacher or version.
        """
        versions = self.teachers()
        if name in versions:
            return versions[name]
        specs = [spec for spec in versions.values() if spec.name == name]
        if not specs:
            known = ", ".join(versions) or "no teacher at all"
            raise UserError(f"{self.root.uri} has no teacher {name!r}; it has {known}")
        return self._current(specs, self.corpora()).spec

    def shards(self, spec: TeacherSpec, corpus: str) -> Folder:
        """Returns the folder of one version's shards for one corpus."""
        return self.root.child("teachers").child(spec.key).child(corpus)


def _same_rows(ours: pa.Table, theirs: pa.Table) -> bool:
    return from_table(ours) == from_table(theirs)
