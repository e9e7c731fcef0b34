"""Where things lie in a cache.

    CACHE/
      cache.json                        format version
      corpora/CORPUS/                   a copy of the corpus: corpus.json, clips-*.parquet
      teachers/NAME@FINGERPRINT/
        spec.json                       the version, `manifests.streams.specs.TeacherSpec`
        CORPUS/markers/0000000.json     commit marker, written last: its presence means complete
        CORPUS/data/0000000-SHA.parquet targets
        CORPUS/failures/...             clips without targets, with the reason

Nothing but cache.json is shared between teachers or jobs, and it never changes: what there is, is
found by listing, so jobs that race cannot lose each other's entries.
"""

from __future__ import annotations

import json
from pathlib import Path

from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.streams.specs import TeacherSpec

FORMAT = 1
"""Version of the cache's format. A reader refuses newer ones."""


class Layout:
    """Paths and listings of one cache."""

    def __init__(self, uri: str | Path) -> None:
        self.root = Folder(uri)

    @classmethod
    def open(cls, uri: str | Path) -> Layout:
        """An existing cache.

        Raises:
            UserError: there is none, or its format is newer than this version reads.
        """
        layout = cls(uri)
        try:
            found = json.loads(layout.root.read_bytes("cache.json"))["format"]
        except FileNotFoundError:
            raise UserError(
                f"{uri} is not a teacher cache (it has no cache.json); "
                "check the path, or make one with: coat-cache build --corpus CORPUS --cache CACHE"
            ) from None
        except (json.JSONDecodeError, KeyError):
            raise UserError(f"{uri}/cache.json is not what we write; restore it") from None
        if found > FORMAT:
            raise UserError(
                f"{uri} has cache format {found}, this version reads up to {FORMAT}; "
                "upgrade coat-distill"
            )
        return layout

    @classmethod
    def create(cls, uri: str | Path) -> Layout:
        """The cache at an address, made if it is not there."""
        if not Folder(uri).exists("cache.json"):
            Folder(uri).write_atomic("cache.json", json.dumps({"format": FORMAT}).encode())
        return cls.open(uri)

    def corpora(self) -> list[str]:
        """Names of the corpora, sorted."""
        return self.root.child("corpora").folders()

    def corpus(self, name: str) -> Corpus:
        """The cache's copy of a corpus."""
        return Corpus(f"{self.root.uri}/corpora/{name}")

    def register(self, corpus: Corpus) -> None:
        """Copies a corpus into the cache, or the parts by which it has grown.

        Raises:
            UserError: the cache has another corpus of this name.
        """
        target = self.root.child("corpora").child(corpus.name)
        known = self.corpus(corpus.name).parts if target.exists("corpus.json") else []
        for ours, theirs in zip(known, corpus.parts, strict=False):
            if ours.sha256 != theirs.sha256:
                raise UserError(
                    f"the cache has a corpus {corpus.name!r} whose {ours.file} differs from "
                    f"{corpus.folder.uri}/{theirs.file}; a corpus only grows by added parts: "
                    "rebuild it over its old folder, or give the new one another --name"
                )
        for part in corpus.parts[len(known) :]:
            target.write_atomic(part.file, corpus.folder.read_bytes(part.file))
        if len(corpus.parts) > len(known):
            target.write_atomic("corpus.json", corpus.folder.read_bytes("corpus.json"))

    def add_teacher(self, spec: TeacherSpec) -> None:
        """Writes a version's spec.json, unless it is there."""
        folder = self.root.child("teachers").child(spec.key)
        if not folder.exists("spec.json"):
            folder.write_atomic("spec.json", spec.to_json().encode())

    def teachers(self) -> dict[str, TeacherSpec]:
        """`NAME@FINGERPRINT` -> spec of every version, oldest first."""
        folder = self.root.child("teachers")
        specs = [
            TeacherSpec.from_json(folder.child(key).read_bytes("spec.json").decode())
            for key in folder.folders()
            if folder.child(key).exists("spec.json")
        ]
        return {spec.key: spec for spec in sorted(specs, key=lambda spec: spec.created)}

    def newest(self) -> dict[str, TeacherSpec]:
        """Teacher name -> its newest version."""
        return {spec.name: spec for spec in self.teachers().values()}

    def teacher(self, name: str) -> TeacherSpec:
        """A version by `NAME@FINGERPRINT`, or the newest of `NAME`.

        Raises:
            UserError: the cache has none such.
        """
        every = self.teachers()
        found = every.get(name) or self.newest().get(name)
        if found is None:
            known = ", ".join(every) or "no teacher at all"
            raise UserError(f"{self.root.uri} has no teacher {name!r}; it has {known}")
        return found

    def shards(self, spec: TeacherSpec, corpus: str) -> Folder:
        """Folder of one version's shards for one corpus."""
        return self.root.child("teachers").child(spec.key).child(corpus)
