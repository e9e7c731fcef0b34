"""Opens the folder of a corpus for one build, whatever the build before has left there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from manifests.corpus.source_index import FOLDER, SourceIndex
from manifests.errors import UserError, is_disk_full
from manifests.folder_lock import folder_lock
from manifests.storage import TEMPORARY, Folder

LOCK_FILE = ".build.lock"


@contextmanager
def open_build(folder: Folder) -> Iterator[SourceIndex]:
    """Holds a corpus's folder, and gives what builds have read of its sources before.

    On a disk, no other build may hold the folder, and unfinished files of killed builds are
    deleted. Object stores have neither locks nor unfinished files.

    Raises:
        UserError: another build holds the folder, or it cannot be used.
    """
    with ExitStack() as stack:
        if folder.is_local:
            busy = f"another build is writing to {folder.uri}; wait until it has finished"
            lock = folder_lock(Path(folder.path("")), LOCK_FILE, busy=busy)
            try:
                stack.enter_context(lock)
            except OSError as error:
                if is_disk_full(error):
                    raise
                raise UserError(
                    f"--out {folder.uri} cannot be used as a folder: {error.strerror}; choose "
                    "another"
                ) from None
            for place in (folder, folder.child(FOLDER)):
                for name in place.stamps(unfinished=True):
                    if name.startswith(TEMPORARY):
                        place.delete(name)
        yield stack.enter_context(SourceIndex(folder))
