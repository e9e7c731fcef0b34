"""Checks that all files of a checkpoint are complete.

The trainer writes `trainer_state.json` after the weights, but not after the files of other ranks,
and after a power failure a file may exist without its content. Therefore a list of files and sizes
is written last, after all files are on the disk. Checkpoints of earlier versions have no such list
and are checked by the formats of their files.
"""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

from manifests.file_list import find_cut_file, listed_files

TRAINER_STATE = "trainer_state.json"


def find_damage(checkpoint: Path, required: str) -> str | None:
    """The name of a missing or incomplete file; None if the checkpoint is complete.

    Args:
        checkpoint: Folder of the checkpoint.
        required: Name of the file with the trained state.
    """
    if cut := find_cut_file(checkpoint):
        return cut
    for name in (TRAINER_STATE, required):
        if not (checkpoint / name).is_file():
            return name
    for file in listed_files(checkpoint):
        if not _is_complete(file):
            return str(file.relative_to(checkpoint))
    return None


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
