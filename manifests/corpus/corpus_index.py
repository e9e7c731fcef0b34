"""The content of corpus.json: the name of a corpus, and its parts.

A part is one Parquet file of up to 65,536 clips. `manifests.corpus.corpus` reads and builds them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from manifests.errors import UserError
from manifests.storage import Folder

FORMAT = 3
"""Version of the corpus's format. A reader rejects newer versions. Since version 2, rows
distinguish a stated duration from an estimate. Parts of format 1 are never rewritten, even if parts
of a newer format follow them. Since version 3, a part can have its own number of clips per shard;
a corpus without such a part is written as version 2."""
EVEN_FORMAT = 2
"""The format of a corpus whose parts all have the corpus's number of clips per shard."""
INDEX_FILE = "corpus.json"
"""Name of the file that makes a folder a corpus."""
CACHE_FILE = "cache.json"
"""Name of the file that makes a folder a teacher cache; none is both."""
CLIPS_PER_SHARD = 256
CLIPS_PER_PART = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One Parquet file of a corpus."""

    file: str
    clips: int
    shards: int
    first_shard: int
    seconds: float
    """Sum of the stated or estimated durations."""
    bytes: int
    sha256: str
    clips_per_shard: int | None = None
    """Clips in every shard but the last; None for the corpus's own number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusIndex:
    """The content of corpus.json."""

    name: str
    """Also the corpus's folder name in a cache."""
    clips_per_shard: int = CLIPS_PER_SHARD
    """The most clips in a shard; also their number, unless the part says otherwise."""
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise UserError(
                f"the corpus name {self.name!r} must be letters, digits, '_', '-' and '.'; "
                "choose another with --name"
            )
        if not 1 <= self.clips_per_shard <= CLIPS_PER_PART:
            raise UserError(
                f"clips_per_shard must be 1 to {CLIPS_PER_PART}, found {self.clips_per_shard}"
            )

    def shard_size(self, part: Part) -> int:
        """The number of clips in every shard of a part but the last."""
        return part.clips_per_shard or self.clips_per_shard

    def to_bytes(self) -> bytes:
        """The content of corpus.json."""
        fields = asdict(self)
        for part in fields["parts"]:
            if part["clips_per_shard"] is None:
                del part["clips_per_shard"]
        is_even = all(part.clips_per_shard is None for part in self.parts)
        version = EVEN_FORMAT if is_even else FORMAT
        return json.dumps({"format": version, **fields}, indent=1, ensure_ascii=False).encode()

    @classmethod
    def read(cls, folder: Folder) -> CorpusIndex:
        """Reads corpus.json and checks that every part is present in its full size.

        Raises:
            UserError: there is no corpus, an incomplete one, or one of a newer format.
        """
        if folder.is_file():
            raise UserError(
                f"{folder.uri} is a file, expected the folder of a corpus; make one with: "
                f"coat-corpus build {folder.uri} --out CORPUS"
            )
        sizes = folder.sizes()
        if INDEX_FILE not in sizes:
            folder.check_bucket()
            if any(map(is_part, sizes)):
                raise UserError(
                    f"{folder.uri} is not a complete corpus; run its coat-corpus build again"
                )
            if folder.exists(CACHE_FILE):
                raise UserError(f"{folder.uri} is a teacher cache, expected the folder of a corpus")
            raise UserError(
                f"{folder.uri} is not a corpus (it has no {INDEX_FILE}); check the path, or "
                "make a corpus of your files with: coat-corpus build SOURCE --out CORPUS"
            )
        try:
            fields = json.loads(folder.read_bytes(INDEX_FILE))
            version = fields.pop("format")
            if version > FORMAT:
                raise UserError(
                    f"{folder.uri} has corpus format {version}, this version reads up to {FORMAT}; "
                    "upgrade coat-distill"
                )
            parts = tuple(Part(**part) for part in fields.pop("parts"))
            contents = cls(**fields, parts=parts)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder.uri}/{INDEX_FILE} is not what coat-corpus writes ({error}); restore it"
            ) from None
        for part in parts:
            if sizes.get(part.file) != part.bytes:
                raise UserError(
                    f"{folder.uri}/{part.file} should have {part.bytes} bytes, found "
                    f"{sizes.get(part.file, 'no such file')}; restore it from a copy of the corpus"
                )
        return contents


def next_part_file(files: Iterable[str]) -> str:
    """The name of a new part, whose number is larger than those of all these files."""
    return f"clips-{max(map(_number, files), default=-1) + 1:05d}.parquet"


def is_part(name: str) -> bool:
    """Whether this is the name of a part."""
    return re.fullmatch(r"clips-\d{5,}\.parquet", name) is not None


def _number(file: str) -> int:
    return int(re.sub(r"\D", "", file.removesuffix(".parquet")))
