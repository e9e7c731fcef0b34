"""List of a local folder's files and their sizes, which shows whether the folder is complete.

After a power failure or a kill, a file may exist without its content. The list is written last,
once all files are on the disk.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE_LIST = "files.json"
"""File that stores the bytes of every file of its folder, by name."""


def write_file_list(folder: Path) -> None:
    """Writes the list of a folder's files, once their content is on the disk."""
    sizes = {}
    for file in listed_files(folder):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        sizes[str(file.relative_to(folder))] = file.stat().st_size
    part = folder / f"{FILE_LIST}.part"
    part.write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    part.rename(folder / FILE_LIST)


def find_cut_file(folder: Path) -> str | None:
    """Finds a file that is missing or has another size; None if there is none, or no list."""
    try:
        sizes: dict[str, int] = json.loads((folder / FILE_LIST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            return name
    return None


def listed_files(folder: Path) -> list[Path]:
    """Returns all files within a folder except the list itself."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(FILE_LIST)
    ]
