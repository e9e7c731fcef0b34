"""A corpus: a table of clips, cut once into the slices that the cache's shards follow.

    CORPUS/
      corpus.json             name, clips per shard, parts with their SHA-256
      clips-00000.parquet     a part; each of its row groups is one shard

A corpus only grows: building again over a grown source appends the clips with new ids as new parts
and shards, so what a cache holds of the old ones stays valid. Ids are compared by 64-bit hashes in
sorted arrays (16 bytes a clip), so ten million clips need no gigabytes; whatever the hashes suspect
is then looked at in full.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.clips import Clip, from_table, to_table
from manifests.errors import UserError
from manifests.storage import Folder

FORMAT = 1
CLIPS_PER_PART = 65_536
OPEN_PARTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a corpus."""

    file: str
    clips: int
    shards: int
    first_shard: int
    seconds: float
    """Of the clips whose duration is known."""
    sha256: str


class Corpus:
    """A corpus, open for reading.

    Raises:
        UserError: there is none, or its format is newer than this version reads.
    """

    def __init__(self, uri: str | Path) -> None:
        self.folder = Folder(uri)
        try:
            head = json.loads(self.folder.read_bytes("corpus.json"))
        except FileNotFoundError:
            raise UserError(
                f"{uri} is not a corpus (it has no corpus.json); check the path, or make one "
                "with: coat-corpus build SOURCE --out CORPUS"
            ) from None
        except json.JSONDecodeError:
            raise UserError(f"{uri}/corpus.json is damaged; build the corpus again") from None
        if head["format"] > FORMAT:
            raise UserError(
                f"{uri} has corpus format {head['format']}, this version reads up to {FORMAT}; "
                "upgrade coat-distill"
            )
        self.name: str = head["name"]
        self.clips_per_shard: int = head["clips_per_shard"]
        self.parts = [Part(**part) for part in head["parts"]]
        self._file = functools.lru_cache(OPEN_PARTS)(self._open)

    @property
    def num_clips(self) -> int:
        """Clips in all."""
        return sum(part.clips for part in self.parts)

    @property
    def num_shards(self) -> int:
        """Shards in all; they are numbered from 0."""
        return sum(part.shards for part in self.parts)

    @property
    def seconds(self) -> float:
        """Audio seconds of the clips whose duration is known."""
        return sum(part.seconds for part in self.parts)

    @property
    def digest(self) -> str:
        """Names exactly these rows."""
        text = "".join(part.sha256 for part in self.parts)
        return hashlib.sha256(text.encode()).hexdigest()

    def shard(self, number: int) -> list[Clip]:
        """The clips of one shard."""
        return from_table(self._read(number, None))

    def shard_ids(self, number: int) -> list[str]:
        """The ids of one shard's clips."""
        return self._read(number, ["clip_id"]).column("clip_id").to_pylist()

    def shard_sizes(self) -> list[int]:
        """Clips per shard: all are full but the last of each part."""
        sizes = []
        for part in self.parts:
            last = part.clips - self.clips_per_shard * (part.shards - 1)
            sizes += [self.clips_per_shard] * (part.shards - 1) + [last]
        return sizes

    def clips(self) -> Iterator[Clip]:
        """Every clip, in order."""
        for number in range(self.num_shards):
            yield from self.shard(number)

    def _read(self, number: int, columns: list[str] | None) -> pa.Table:
        for at, part in enumerate(self.parts):
            if number < part.first_shard + part.shards:
                return self._file(at).read_row_group(number - part.first_shard, columns=columns)
        raise IndexError(f"corpus {self.name} has shards 0 to {self.num_shards - 1}, not {number}")

    def _open(self, part: int) -> pq.ParquetFile:
        return pq.ParquetFile(self.folder.open(self.parts[part].file))


def build(
    clips: Iterable[Clip],
    out: str | Path,
    *,
    name: str | None = None,
    clips_per_shard: int = 256,
) -> Corpus:
    """Writes a corpus, or appends what is new to the one that is there.

    Args:
        clips: In the order they shall have; read once, a part at a time.
        out: Folder or address of the corpus.
        name: Its name in caches; the folder's name if None. Fixed at the first build.
        clips_per_shard: Clips per shard, from 1 to `CLIPS_PER_PART`. Fixed at the first build.

    Raises:
        UserError: an id occurs twice, or names another stretch of audio than before; the source has
            no clips; a choice differs from that of the first build.
    """
    folder = Folder(out)
    if not 1 <= clips_per_shard <= CLIPS_PER_PART:
        raise UserError(
            f"clips_per_shard must be in [1, {CLIPS_PER_PART}]; found {clips_per_shard}"
        )
    grown = Corpus(out) if folder.exists("corpus.json") else None
    if grown is not None:
        if name not in (None, grown.name) or clips_per_shard not in (256, grown.clips_per_shard):
            raise UserError(
                f"{out} holds the corpus {grown.name!r} with {grown.clips_per_shard} clips per "
                "shard; both are fixed at its first build: leave them out, or choose another --out"
            )
        name, clips_per_shard = grown.name, grown.clips_per_shard
    name = name or Path(folder.uri).name
    known = _Known(grown)
    parts = list(grown.parts) if grown else []
    num_old = known.num_clips
    size = max(1, CLIPS_PER_PART // clips_per_shard) * clips_per_shard
    iterator = iter(clips)
    while chunk := list(itertools.islice(iterator, size)):
        fresh = known.add(chunk, folder, parts, num_old)
        if fresh:
            parts.append(_write_part(folder, fresh, parts, clips_per_shard))
    if not parts:
        raise UserError(f"the source has no clips, so no corpus was written to {out}")
    if grown is None or len(parts) > len(grown.parts):
        head = {
            "format": FORMAT,
            "name": name,
            "clips_per_shard": clips_per_shard,
            "parts": [asdict(part) for part in parts],
        }
        folder.write_atomic("corpus.json", json.dumps(head, indent=1).encode())
    return Corpus(out)


def _write_part(folder: Folder, clips: list[Clip], parts: list[Part], clips_per_shard: int) -> Part:
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(clips), sink, row_group_size=clips_per_shard, compression="zstd")
    data = sink.getvalue()
    file = f"clips-{len(parts):05d}.parquet"
    folder.write_atomic(file, data)
    return Part(
        file=file,
        clips=len(clips),
        shards=-(-len(clips) // clips_per_shard),
        first_shard=sum(part.shards for part in parts),
        seconds=round(sum(clip.duration or 0.0 for clip in clips), 6),
        sha256=hashlib.sha256(data).hexdigest(),
    )


class _Known:
    """Hashes of the ids seen so far, and of the audio that each names."""

    def __init__(self, corpus: Corpus | None) -> None:
        self._ids = np.empty(0, np.uint64)
        self._audio = np.empty(0, np.uint64)
        self._places = np.empty(0, np.int64)
        self.num_clips = 0
        for number in range(corpus.num_shards if corpus else 0):
            assert corpus is not None
            self._insert(*_hashes(corpus.shard(number)))

    def add(self, chunk: list[Clip], folder: Folder, parts: list[Part], num_old: int) -> list[Clip]:
        """The clips of a chunk that an earlier build did not have.

        Raises:
            UserError: an id is already taken, by a row of this build or by other audio.
        """
        ids, audio = _hashes(chunk)
        places = np.searchsorted(self._ids, ids)
        fresh: list[int] = []
        seen: dict[str, Clip] = {}
        for at, clip in enumerate(chunk):
            place = int(places[at])
            hit = place < len(self._ids) and self._ids[place] == ids[at]
            row = int(self._places[place]) if hit else -1
            if clip.clip_id in seen:
                raise _duplicate(seen[clip.clip_id], clip)
            seen[clip.clip_id] = clip
            if not hit:
                fresh.append(at)
            elif row >= num_old:
                raise _duplicate(_row(folder, parts, row), clip)
            elif self._audio[place] != audio[at]:
                old = _row(folder, parts, row)
                raise UserError(
                    f"clip {clip.clip_id} was {_where(old)} when the corpus was first built and "
                    f"is now {_where(clip)}; a corpus only grows: give the new clip another id"
                )
        self._insert(ids[fresh], audio[fresh])
        return [chunk[at] for at in fresh]

    def _insert(self, ids: np.ndarray, audio: np.ndarray) -> None:
        places = np.arange(self.num_clips, self.num_clips + len(ids))
        self.num_clips += len(ids)
        order = ids.argsort()
        at = np.searchsorted(self._ids, ids[order])
        self._ids = np.insert(self._ids, at, ids[order])
        self._audio = np.insert(self._audio, at, audio[order])
        self._places = np.insert(self._places, at, places[order])


def _hashes(clips: list[Clip]) -> tuple[np.ndarray, np.ndarray]:
    def of(values: Iterable[str]) -> np.ndarray:
        digests = (hashlib.blake2b(value.encode(), digest_size=8).digest() for value in values)
        return np.frombuffer(b"".join(digests), np.uint64)

    return of(clip.clip_id for clip in clips), of(_where(clip) for clip in clips)


def _where(clip: Clip) -> str:
    length = "to its end" if clip.duration is None else f"for {clip.duration} s"
    return f"{clip.uri} from {clip.offset} s {length}"


def _duplicate(first: Clip, second: Clip) -> UserError:
    return UserError(
        f"two clips have the id {second.clip_id}: {_where(first)}, and {_where(second)}; "
        "give every clip an id of its own, or none"
    )


def _row(folder: Folder, parts: list[Part], row: int) -> Clip:
    for part in parts:
        if row < part.clips:
            return from_table(pq.read_table(folder.open(part.file)).slice(row, 1))[0]
        row -= part.clips
    raise IndexError(row)
