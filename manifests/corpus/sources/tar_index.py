"""Indexes the members of uncompressed tars, so that each is read in place as a range of bytes.

Only headers are read, of many tars in parallel. Anything that would give a clip wrong bytes or
silently omit members is an error: compression, sparse members, damage, a second archive after the
first.
"""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from manifests import web
from manifests.audio_address import ByteRange, check_file_name
from manifests.corpus.source_index import Member, SourceIndex, TarKey
from manifests.errors import UserError
from manifests.storage import Folder, filesystem, identity, in_parallel

AT_ONCE = 16
"""Number of tars that are read in parallel."""
READ_AHEAD = 1 << 16
"""Bytes that are read with a header, so that small members need no separate read."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files."""
MAX_SMALL = 1 << 24
"""Maximum size in bytes of a member that is read as text or JSON."""
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Tar:
    """One tar and its members in order."""

    uri: str
    members: list[Member]

    def address(self, member: Member) -> str:
        """The uri of a member that is not empty."""
        return f"{self.uri}{ByteRange(member.first, member.first + member.size - 1)}"


def read_tars(
    uris: Sequence[str], content_of: re.Pattern[str] | None = None, *, index: SourceIndex
) -> Iterator[Tar]:
    """Indexes tars in parallel, and yields them in order.

    Args:
        uris: Paths or addresses.
        content_of: The content of members whose names match this pattern is read, too.
        index: The tars that were read before, which are not read again, and those read now.

    Raises:
        UserError: a tar is missing, compressed, damaged, or has sparse members.
    """
    return in_parallel(lambda uri: _look_up(uri, content_of, index), uris, requests=AT_ONCE)


def expand(pattern: str) -> list[str]:
    """Expands a pattern with `{000..012}`, `{a,b}` or NeMo's `_OP_0..7_CL_`, in order.

    Numbers are padded with zeros to the width in which they are written.

    Raises:
        UserError: a brace is malformed, or a range has more than a million numbers.
    """
    text = pattern.replace("_OP_", "{").replace("_CL_", "}")
    match = re.search(r"\{([^{}]*)\}", text)
    if not match:
        if "{" in text or "}" in text:
            raise UserError(f"{pattern} has an unbalanced brace; expected {{000..012}}")
        return [text]
    span = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", match[1])
    if span:
        first, last = int(span[1]), int(span[2])
        if not first <= last < first + 1_000_000:
            raise UserError(f"{pattern}: the range {match[1]} is empty or too long")
        is_padded = any(len(end) > 1 and end[0] == "0" for end in span.groups())
        width = max(map(len, span.groups())) if is_padded else 0
        inner = [f"{number:0{width}d}" for number in range(first, last + 1)]
    elif "," in match[1]:
        inner = match[1].split(",")
    else:
        raise UserError(f"{pattern}: expected {{000..012}} or {{a,b}}, found {match[0]}")
    head, tail = text[: match.start()], text[match.end() :]
    return [f"{head}{each}{rest}" for each in inner for rest in expand(tail)]


def _look_up(uri: str, content_of: re.Pattern[str] | None, index: SourceIndex) -> Tar:
    check_file_name(uri)
    try:
        state = identity(uri)
    except OSError as error:
        raise UserError(f"{uri} cannot be read ({error})") from None
    if state is None:
        return _read(uri, content_of)
    place = filesystem(uri)[1] if "://" not in uri else uri
    key = TarKey(place, state, content_of.pattern if content_of else "")
    members = index.tar(key)
    if members is not None:
        return Tar(place, members)
    tar = _read(uri, content_of)
    index.add_tar(key, tar.members)
    return tar


def _read(uri: str, content_of: re.Pattern[str] | None) -> Tar:
    if uri.startswith(web.SCHEMES):
        web.check_ranges(uri)
    system, path = filesystem(uri)
    try:
        with system.open_input_file(path) as inner:
            size = inner.size()
            file = cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, inner), READ_AHEAD))
            return Tar(path if "://" not in uri else uri, _members(uri, file, size, content_of))
    except FileNotFoundError:
        Folder(uri).check_bucket()
        hint = "; patterns are written as {000..012} or {a,b}" if re.search(r"[*?]", uri) else ""
        raise UserError(f"there is no {uri}; expected a tar{hint}") from None
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise UserError(f"{uri} is damaged or not a tar ({error}); copy or make it again") from None
    except OSError as error:
        raise UserError(f"{uri} cannot be read ({error})") from None


def _members(
    uri: str, file: BinaryIO, size: int, content_of: re.Pattern[str] | None
) -> list[Member]:
    head = file.read(8)
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            raise UserError(
                f"{uri} is compressed ({name}), and single clips cannot be read from it; unpack it "
                "into a plain tar and build again"
            )
    file.seek(0)
    members: list[Member] = []
    links: dict[int, tarfile.TarInfo] = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            if info.issparse():
                raise UserError(
                    f"{uri}: {info.name} is a sparse member, whose bytes are not its file's; write "
                    "the tar again without --sparse"
                )
            if info.isreg():
                members.append(_member(uri, file, info, content_of))
            elif info.islnk() or info.issym():
                links[len(members)] = info
                members.append(Member(info.name, 0, 0, None))
            # tarfile would keep every header in memory.
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
        end = tar.offset
    _check_end(uri, file, end, size)
    return _follow_links(uri, members, links)


def _follow_links(
    uri: str, members: list[Member], links: dict[int, tarfile.TarInfo]
) -> list[Member]:
    """The members, with the bytes of their targets in place of links.

    GNU tar stores a file that it meets twice (with two names) as a link to the first.
    """
    if not links:
        return members
    by_name = {
        posixpath.normpath(member.name): member
        for row, member in enumerate(members)
        if row not in links
    }
    followed = list(members)
    for row, info in links.items():
        start = posixpath.dirname(info.name) if info.issym() else ""
        target = by_name.get(posixpath.normpath(posixpath.join(start, info.linkname)))
        if target is None:
            raise UserError(
                f"{uri}: {info.name} is a link to {info.linkname}, which is not a file in the tar; "
                "write the tar again with --dereference"
            )
        followed[row] = replace(target, name=info.name)
    return followed


def _member(
    uri: str, file: BinaryIO, info: tarfile.TarInfo, content_of: re.Pattern[str] | None
) -> Member:
    content = None
    if content_of and content_of.search(info.name):
        if info.size > MAX_SMALL:
            raise UserError(f"{uri}: {info.name} has {info.size} bytes, expected a small text")
        file.seek(info.offset_data)
        content = file.read(info.size)
    return Member(info.name, info.offset_data, info.size, content)


def _check_end(uri: str, file: BinaryIO, end: int, size: int) -> None:
    """Checks the end of an archive: tarfile silently treats a damaged header as the end."""
    if end > size:
        raise UserError(f"{uri} ends after {size} bytes, in the middle of a member; copy it again")
    file.seek(end)
    rest = file.read(MAX_SMALL)
    if rest.strip(b"\0"):
        where = (
            "a damaged header" if rest[:BLOCK].strip(b"\0") else "a second archive after its end"
        )
        raise UserError(f"{uri} has {where} at byte {end}; make the tar again")
