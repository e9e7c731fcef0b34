"""Allows one process at a time to write to a folder in an object store.

Object stores have no locks, and pyarrow's clients cannot create an object only where there is none.
All of the stores show an object to every listing that starts after it was written, however, and
that is enough: a process writes an object of its own and then lists the folder. It holds the folder
only if it sees no other, so of two processes at most one does. If both see each other, both remove
their objects and try again after a random pause.

The holder rewrites its object from time to time. An object that was not rewritten for `EXPIRY_S`,
by the clock of the store, belongs to a dead process and is removed, and so is that of a dead
process of this machine. A process that was suspended for longer may lose the folder to another,
and has to ask `check` before it writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from manifests.errors import UserError
from manifests.folder_lock import busy, describe_process
from manifests.storage import Folder

EXPIRY_S = 90.0
"""Seconds without a sign of life after which a holder counts as dead."""
RENEWAL_S = 20.0
"""Seconds between two signs of life."""
ATTEMPTS = 6
"""Attempts to hold a folder that other processes are trying to hold at the same moment."""


@contextmanager
def store_lease(folder: Folder, name: str, *, what: str) -> Iterator[Callable[[], None]]:
    """Holds a folder in an object store.

    Args:
        folder: The folder.
        name: Prefix of the names of the processes' objects in it.
        what: The process's work on the folder, such as `build`, for messages.

    Yields:
        A function that raises a UserError if this process does not hold the folder any more.

    Raises:
        UserError: another process holds the folder.
    """
    lease = _Lease(folder, name, what)
    lease.acquire()
    renewal = threading.Thread(target=lease.renew_until_released, daemon=True)
    renewal.start()
    try:
        yield lease.check
    finally:
        lease.released.set()
        renewal.join()
        lease.remove()


class _Lease:
    """The object of this process."""

    def __init__(self, folder: Folder, name: str, what: str) -> None:
        self._folder, self._what = folder, what
        self._prefix = f"{name}-"
        self._own = f"{self._prefix}{secrets.token_hex(8)}"
        self.released = threading.Event()

    def acquire(self) -> None:
        """Holds the folder.

        Raises:
            UserError: another process holds it.
        """
        for attempt in range(ATTEMPTS):
            self._write(is_holder=False)
            others = self._others()
            if not others:
                self._write(is_holder=True)
                return
            self.remove()
            holder = next((each for each in others if each.get("is_holder")), None)
            if holder is not None or attempt == ATTEMPTS - 1:
                raise self._busy(holder or others[0])
            time.sleep(random.uniform(0.2, 1.0 + attempt))

    def check(self) -> None:
        """Checks that this process still holds the folder.

        Raises:
            UserError: it does not.
        """
        if self._own not in self._folder.sizes():
            raise UserError(
                f"this {self._what} was suspended or cut off from {self._folder.uri} for more than "
                f"{EXPIRY_S:g} s, and another one may have written there; run the same command "
                "again"
            )

    def renew_until_released(self) -> None:
        """Rewrites the object from time to time, unless another process has removed it."""
        while not self.released.wait(RENEWAL_S):
            # A store that does not answer now may do so next time; `check` decides.
            with contextlib.suppress(OSError, UserError):
                self.check()
                self._write(is_holder=True)

    def remove(self) -> None:
        """Removes the object."""
        with contextlib.suppress(OSError):
            self._folder.delete(self._own)

    def _write(self, *, is_holder: bool) -> None:
        fields = {
            "holder": describe_process(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "machine": _machine(),
            "process": os.getpid(),
            "is_holder": is_holder,
        }
        self._folder.write_atomic(self._own, json.dumps(fields).encode())

    def _others(self) -> list[dict[str, object]]:
        """The contents of the objects of other processes that are alive."""
        stamps = {
            name: changed
            for name, (_, changed) in self._folder.stamps().items()
            if name.startswith(self._prefix)
        }
        now = stamps.get(self._own, 0)
        alive = []
        for name, changed in stamps.items():
            if name == self._own:
                continue
            try:
                fields = json.loads(self._folder.read_bytes(name))
            except FileNotFoundError:  # Its process has just ended.
                continue
            except (OSError, ValueError):  # It is being removed or rewritten.
                fields = {}
            if _is_dead(fields) or (changed and now - changed > EXPIRY_S * 1e9):
                with contextlib.suppress(OSError):
                    self._folder.delete(name)
                continue
            alive.append(fields)
        return alive

    def _busy(self, other: dict[str, object]) -> UserError:
        holder = f"{other.get('holder', 'unknown')}, since {other.get('since', 'unknown')}"
        if not other.get("is_holder"):
            holder += ", like this one waiting"
        error = busy(self._folder.uri, self._what, holder)
        return UserError(
            f"{error}; if that process is dead, the folder is free {EXPIRY_S:g} s after its death"
        )


def _machine() -> str:
    """Names this machine and its set of processes since it was started; empty if that is unknown.

    A number of a process means the same only within one.
    """
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{start} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _is_dead(fields: dict[str, object]) -> bool:
    """Whether a process of this machine does not exist any more."""
    process = fields.get("process")
    if not isinstance(process, int) or not _machine() or fields.get("machine") != _machine():
        return False
    return not Path(f"/proc/{process}").exists()
