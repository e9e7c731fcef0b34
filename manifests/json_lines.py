"""Reads files of JSON lines.

`str.splitlines` also splits at U+2028, U+0085 and other characters, which JSON has inside strings:
a transcript or a reply with one of them would end in the middle.
"""

from __future__ import annotations

from pathlib import Path

from manifests.errors import UserError


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers, which begin with 1.

    Raises:
        UserError: the file is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start + 1}: {error.reason}); save it in UTF-8"
        ) from None
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
