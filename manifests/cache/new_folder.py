"""Checks the folder of a new cache, so that a mistyped address does not become one."""

from __future__ import annotations

from manifests.corpus.relabel import describe_ids
from manifests.errors import UserError
from manifests.storage import Folder

OWN_NAMES = ("corpora", "teachers", "lost+found")
"""Folders that a cache without cache.json may have; the last one is that of a new disk."""


def check_is_free(folder: Folder) -> None:
    """Rejects a file, and a local folder that holds something else than a cache.

    Hidden files do not count. Prefixes of an object store are not listed, because they may hold
    millions of keys.
    """
    if folder.is_file():
        raise UserError(f"{folder.uri} is a file, expected the folder of a cache")
    if not folder.is_local:
        return
    names = [*folder.folders(), *folder.names()]
    if others := [name for name in names if name not in OWN_NAMES and not name.startswith(".")]:
        raise UserError(
            f"{folder.uri} is not a teacher cache (it has no cache.json) and holds other files "
            f"({describe_ids(others)}); give a new or an empty folder"
        )
