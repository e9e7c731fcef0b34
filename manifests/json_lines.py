"""Reads files of JSON lines.

Only line feeds end a line. `str.splitlines` also splits at U+2028, U+0085 and other characters,
which JSON has inside strings: a transcript or a reply with one of them would end in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from manifests.errors import UserError


def iterate_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a file that are not blank, with their numbers, which begin with 1.

    Lines keep their line feed. A byte order mark at the beginning is dropped.

    Raises:
        UserError: the file is not UTF-8.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} is not UTF-8 (line {number}, byte {error.start + 1}: {error.reason}); "
                    "save it in UTF-8"
                ) from None
            if text.strip():
                yield number, text.replace("\r\n", "\n")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Reads the lines of `iterate_lines`, without their line feeds."""
    return [(number, line.removesuffix("\n")) for number, line in iterate_lines(path)]
