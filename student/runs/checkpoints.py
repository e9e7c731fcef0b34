"""Checks that all files of a checkpoint are complete.

The trainer writes `trainer_state.json` after the weights, but not after the files of other ranks,
and after a power failure a file may exist without its content. Therefore a list of files and sizes
is written last, after all files are on the disk. Checkpoints of earlier versions have no such list
and are checked by the formats of their files.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path

FILE_LIST = "files.json"
"""Name -> bytes of every file of a checkpoint; written last."""
TRAINER_STATE = "trainer_state.json"


def close_checkpoint(checkpoint: Path) -> None:
    """Writes the list of a checkpoint's files, once their content is on the disk."""
    sizes = {}
    for file in _files(checkpoint):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        sizes[str(file.relative_to(checkpoint))] = file.stat().st_size
    part = checkpoint / f"{FILE_LIST}.part"
    part.write_text(json.dumps(sizes, indent=1))
    part.rename(checkpoint / FILE_LIST)


def find_damage(checkpoint: Path, required: str) -> str | None:
    """The name of a missing or incomplete file; None if the checkpoint is complete.

    Args:
        checkpoint: Folder of the checkpoint.
        required: Name of the file with the trained state.
    """
    sizes = _read_list(checkpoint)
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file() or file.stat().st_size != size:
            return name
    for name in (TRAINER_STATE, required):
        if not (checkpoint / name).is_file():
            return name
    for file in _files(checkpoint):
        if not _is_complete(file):
            return str(file.relative_to(checkpoint))
    return None


def _files(checkpoint: Path) -> list[Path]:
    return [
        path
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and not path.name.startswith(FILE_LIST)
    ]


def _read_list(checkpoint: Path) -> dict[str, int]:
    try:
        return json.loads((checkpoint / FILE_LIST).read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _is_complete(file: Path) -> bool:
    """Whether a file has the length that its format states; True for formats that state none."""
    try:
        if file.suffix == ".json":
            json.loads(file.read_text("utf-8"))
        elif file.suffix == ".safetensors":
            return file.stat().st_size == _safetensors_size(file)
        elif file.suffix in (".pt", ".pth", ".bin"):
            return zipfile.is_zipfile(file)
    except (OSError, ValueError, KeyError, struct.error):
        return False
    return True


def _safetensors_size(file: Path) -> int:
    """Size of a safetensors file according to its header."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > file.stat().st_size:
            return -1
        header = json.loads(opened.read(length))
    ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)
