"""Opens the folder of a corpus for one build, whatever the build before has left there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from manifests.atomic_file import TEMPORARY
from manifests.corpus.corpus_index import CACHE_FILE, INDEX_FILE, is_part
from manifests.corpus.source_index import FOLDER, SourceIndex
from manifests.folder_lock import folder_lock
from manifests.new_folder import check_is_free
from manifests.storage import Folder
from manifests.store_lease import store_lease

AUDIO = "audio"
"""Subfolder of a corpus with audio that was copied out of a dataset."""
LOCK_FILE = ".build.lock"
"""Name of the lock's file; in object stores, the prefix of the names of such files."""


@dataclass(frozen=True, slots=True)
class OpenBuild:
    """A corpus's folder that this process holds."""

    index: SourceIndex
    """The data that builds have read from the corpus's sources before."""
    check_held: Callable[[], None]
    """Raises a UserError if another build has taken the folder over (object stores only)."""


@contextmanager
def open_build(folder: Folder) -> Iterator[OpenBuild]:
    """Holds a corpus's folder, so that no other build writes to it.

    On a disk, unfinished files of killed builds are deleted; object stores have none.

    Raises:
        UserError: another build holds the folder, or it cannot be used.
    """
    if not folder.exists(INDEX_FILE):
        check_is_free(
            folder, what="corpus", index=INDEX_FILE,
            is_own=lambda name: name in (AUDIO, FOLDER) or is_part(name),
            other=("teacher cache", CACHE_FILE),
        )  # fmt: skip
    with ExitStack() as stack:
        if folder.is_local:
            stack.enter_context(folder_lock(Path(folder.path("")), LOCK_FILE, what="build"))
            check_held = _nothing
            for place in (folder, folder.child(FOLDER)):
                for name in place.stamps(unfinished=True):
                    if name.startswith(TEMPORARY):
                        place.delete(name)
        else:
            folder.check_bucket()
            check_held = stack.enter_context(store_lease(folder, LOCK_FILE, what="build"))
        yield OpenBuild(stack.enter_context(SourceIndex(folder)), check_held)


def _nothing() -> None:
    """A lock on a disk cannot be lost."""
