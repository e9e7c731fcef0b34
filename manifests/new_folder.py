"""Checks the folder of a new corpus or cache, so that a mistyped address does not become one."""

from __future__ import annotations

from collections.abc import Callable

from manifests.clips import describe_ids
from manifests.errors import UserError
from manifests.storage import Folder

FOUND_ON_A_NEW_DISK = "lost+found"


def check_is_free(
    folder: Folder, *, what: str, index: str, is_own: Callable[[str], bool], other: tuple[str, str]
) -> None:
    """Checks that a folder can become a corpus or a cache, and has no other files.

    Hidden files do not count. Prefixes of an object store are not listed, because they may hold
    millions of keys.

    Args:
        folder: The folder, which has no index.
        what: The kind of folder.
        index: The file that makes a folder one.
        is_own: Whether an interrupted build may have left a file or folder of this name.
        other: The other kind of folder, and the file that makes a folder one.

    Raises:
        UserError: it is a file, a folder of the other kind, or a local folder with other files.
    """
    if folder.is_file():
        raise UserError(f"{folder.uri} is a file, expected the folder of a {what}")
    if folder.exists(other[1]):
        raise UserError(f"{folder.uri} is a {other[0]}, give another folder for the {what}")
    if not folder.is_local:
        return
    names = [name for name in (*folder.folders(), *folder.names()) if not name.startswith(".")]
    if others := [name for name in names if name != FOUND_ON_A_NEW_DISK and not is_own(name)]:
        raise UserError(
            f"{folder.uri} is not a {what} (it has no {index}) and holds other files "
            f"({describe_ids(others)}); give a new or an empty folder"
        )
