"""Reads targets from a teacher cache: single clips, or all of them in storage order.

Streams are joined by clip id: a row with an unexpected id raises an error, and a clip without
targets raises a KeyError. Frames are returned as stored (`EncodedFrames`, a view of the bytes that
were read), so that a caller decodes only the frames it needs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from manifests.cache.clip_index import CorpusClips, clip_keys
from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.layout import Layout
from manifests.cache.stream_sums import Statistics
from manifests.cache.teacher_reader import TeacherReader
from manifests.errors import UserError
from manifests.storage import in_parallel

log = logging.getLogger(__name__)


class CacheReader:
    """A cache that is open for reading.

    It can be pickled for spawned workers: the copy opens the cache again by its address, and the
    copy of a stream reads the same version of its teacher.

    Args:
        cache: Folder or address of the cache.
        corpora: Names of the corpora to read; all of them if None.
        local_copies: Folder in which whole shards of a remote cache are kept after the first read.
            When reading in storage order, shards are prefetched. Ignored for a cache on a local
            disk.
        check_pages: Verify Parquet's page checksums at every read.

    Raises:
        UserError: there is no such cache, or no such corpus in it.
    """

    def __init__(
        self,
        cache: str | Path,
        *,
        corpora: Sequence[str] | None = None,
        local_copies: str | Path | None = None,
        check_pages: bool = True,
    ) -> None:
        self.layout = Layout.open(cache)
        known = self.layout.corpora()
        for name in corpora or ():
            if name not in known:
                raise UserError(f"{cache} has no corpus {name!r}; it has {', '.join(known)}")
        self.corpora = list(corpora) if corpora is not None else known
        current = self.layout.current_versions(self.corpora)
        self.teachers = {name: version.spec for name, version in current.items()}
        for version in current.values():
            if version.notice:
                log.warning("%s", version.notice)
        self._local_copies = local_copies
        self._check_pages = check_pages
        self._readers: dict[str, TeacherReader] = {}
        self._corpora = dict(
            zip(self.corpora, in_parallel(self.layout.corpus, self.corpora), strict=True)
        )
        self._clips = functools.lru_cache(4)(self._read_clips)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "cache": self.layout.root.uri,
            "corpora": self.corpora,
            "local_copies": self._local_copies,
            "check_pages": self._check_pages,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def teacher(self, name: str) -> TeacherReader:
        """Opens one teacher's targets, by `NAME` (see `Layout.current`) or `NAME@FINGERPRINT`."""
        spec = self.teachers.get(name) or self.layout.teacher(name)
        if spec.key not in self._readers:
            self._readers[spec.key] = TeacherReader(
                self, spec, self._corpora, self._local_copies, self._check_pages
            )
        return self._readers[spec.key]

    def opened(self) -> list[TeacherReader]:
        """The teachers opened so far."""
        return list(self._readers.values())

    def corpus_clips(self, corpora: Sequence[str]) -> CorpusClips:
        """The clips of some of the corpora; teachers over the same corpora share them."""
        return self._clips(tuple(corpora))

    def _read_clips(self, corpora: tuple[str, ...]) -> CorpusClips:
        return CorpusClips({name: self._corpora[name] for name in corpora})

    def stream(self, name: str) -> StreamReader:
        """Opens one stream, by `TEACHER.STREAM`, e.g. `asr.encoder`."""
        teacher, dot, stream = name.partition(".")
        if not dot:
            raise UserError(f"a stream is named TEACHER.STREAM, e.g. asr.encoder; found {name!r}")
        return StreamReader(self.teacher(teacher), stream)

    def metadata(self, teacher: str, clip_id: str) -> dict[str, Any]:
        """The metadata that a teacher wrote about a clip (transcript, notes).

        Raises:
            KeyError: the teacher has no row for the clip.
        """
        return self.teacher(teacher).metadata(clip_id)


class StreamReader:
    """One stream of one teacher: a mapping from clip id to frames."""

    def __init__(self, teacher: TeacherReader, stream: str) -> None:
        self.teacher = teacher
        self.spec = teacher.spec.stream(stream)

    @property
    def ids(self) -> list[str]:
        """Ids of the clips that have targets, in storage order."""
        return self.teacher.ids

    def __len__(self) -> int:
        return len(self.teacher)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self.teacher

    def __getitem__(self, clip_id: str) -> EncodedFrames:
        return self.teacher.row(clip_id, self.spec.name)[1]

    def row(self, clip_id: str) -> tuple[float, EncodedFrames]:
        """Reads (duration of the audio in seconds, frames) of a clip.

        Raises:
            KeyError: there is no row for the clip.
        """
        return self.teacher.row(clip_id, self.spec.name)

    def duration(self, clip_id: str) -> float:
        """Reads the duration of the audio that the frames describe, in seconds.

        Raises:
            KeyError: there is no row for the clip.
        """
        (seconds,) = self.teacher.durations(clip_keys([clip_id])).tolist()
        if seconds != seconds:
            raise KeyError(f"teacher {self.teacher.spec.key} has no targets for the clip {clip_id}")
        return seconds

    def statistics(self) -> Statistics:
        """Computes mean and deviation over all stored frames."""
        return self.teacher.statistics(self.spec.name)

    def __iter__(self) -> Iterator[tuple[str, EncodedFrames]]:
        """Yields (clip id, frames) of every row, in storage order."""
        for clip_id, frames in self.teacher.scan([self.spec.name]):
            yield clip_id, frames[self.spec.name]
