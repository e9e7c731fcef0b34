"""Parses the part of a file that a clip's uri refers to: a range of bytes, or a row of Parquet.

    /data/a.wav                                     the whole file
    s3://bucket/shard.tar#bytes=512-33323           bytes 512 to 33323, both included
    /data/train.parquet#row_group=0&row=3&column=audio

Numbers count from 0. A byte range is written as in HTTP's Range header. The part is text at the end
of the uri, so every place that stores a uri (rows, messages, lists of failures) also stores the
part. The disadvantage: a file whose own name ends in such a part must be renamed.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from manifests.errors import UserError

_BYTES = re.compile(r"(0|[1-9][0-9]{0,15})-(0|[1-9][0-9]{0,15})")
_ROW = re.compile(r"(0|[1-9][0-9]{0,8})&row=(0|[1-9][0-9]{0,8})&column=([A-Za-z0-9_.~%-]+)")

TAR_BLOCK = 512
"""Bytes of a block of a tar; a member's header is the block in front of it."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes of a file."""

    first: int
    last: int
    """The last byte, included in the range."""

    @property
    def size(self) -> int:
        """Count of bytes."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"#bytes={self.first}-{self.last}"

    def is_member_of(self, file: str) -> bool:
        """Whether the range is where a member of a tar can be; its header is in front of it."""
        is_tar = file.lower().endswith(".tar")
        return is_tar and self.first >= TAR_BLOCK and self.first % TAR_BLOCK == 0


@dataclass(frozen=True, slots=True)
class ParquetRow:
    """The bytes of one row in a column of audio."""

    row_group: int
    row: int
    """Counted within the row group."""
    column: str

    def __str__(self) -> str:
        return f"#row_group={self.row_group}&row={self.row}&column={quote(self.column, safe='')}"


def split_address(uri: str) -> tuple[str, ByteRange | ParquetRow | None]:
    """Splits a uri into its file and the part of the file; None stands for the whole file.

    Raises:
        UserError: the uri ends in a part that is malformed.
    """
    if "#" not in uri:
        return uri, None
    file, separator, text = uri.rpartition("#bytes=")
    if separator:
        match = _BYTES.fullmatch(text)
        if match and file and int(match[1]) <= int(match[2]):
            return file, ByteRange(int(match[1]), int(match[2]))
        raise UserError(
            f"{uri} has a malformed byte range; expected FILE#bytes=FIRST-LAST with "
            "0 <= FIRST <= LAST, such as a.tar#bytes=512-1535"
        )
    file, separator, text = uri.rpartition("#row_group=")
    if separator:
        match = _ROW.fullmatch(text)
        if match and file:
            return file, ParquetRow(int(match[1]), int(match[2]), unquote(match[3]))
        raise UserError(
            f"{uri} has a malformed row; expected FILE#row_group=G&row=R&column=NAME, such as "
            "a.parquet#row_group=0&row=3&column=audio"
        )
    return uri, None


def tar_member(uri: str) -> tuple[str, int] | None:
    """Returns the tar of a clip and the size of its member in bytes; None for other clips."""
    file, part = split_address(uri)
    if isinstance(part, ByteRange) and part.is_member_of(file):
        return file, part.size
    return None


def check_file_name(uri: str) -> None:
    """Rejects a file whose own name looks like a part of a file.

    Raises:
        UserError: the name ends in `#bytes=...` or `#row_group=...`.
    """
    if "#bytes=" in uri or "#row_group=" in uri:
        raise UserError(
            f"the name {uri} holds '#bytes=' or '#row_group=', which would be read as a part of a "
            "file; rename it"
        )


def hint_at_spelling(path: str) -> str:
    """Describes a file that differs from a missing local one only in the Unicode form of its name.

    macOS writes accents as separate characters (NFD), most other programs do not (NFC); both look
    the same. Returns an empty string if there is no such file.
    """
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, path)
        if other != path and Path(other).is_file():
            return (
                f"; there is a file of this name in the Unicode form {form}: rename it, or write "
                "its name in this form"
            )
    return ""
