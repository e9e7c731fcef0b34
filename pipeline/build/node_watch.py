"""Ends a build with a message when Ray's process on its machine, the raylet, ends.

Ray ends such a driver itself, with exit code 1 and without a word: within milliseconds, at its next
call, or after a minute in a call that waits for the cluster. A thread that waits for the end of the
process is faster.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from manifests.console import messages
from pipeline.build.environment import StopSignal

CONNECT_TIMEOUT_S = 5.0
SIGNAL_GRACE_S = 0.1
"""Time for the main thread to receive a signal that was sent to the raylet, too."""


def end_with_cluster() -> NoReturn:
    """Ends this process with a message and exit code 2. What is committed is kept, as after a kill.

    There is no time to raise an error and to clean up.
    """
    messages.show_cursor()
    print(
        "coat-cache: error: Ray's process on this machine has ended; if you started the cluster "
        "(ray start), start it again, then run the same command: what is committed is kept",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    os._exit(2)


@contextlib.contextmanager
def node_watch(raylet_socket: str, stop: StopSignal) -> Iterator[None]:
    """Watches the raylet in a thread while the context lasts; on Linux only.

    Args:
        raylet_socket: Path of the raylet's Unix socket; empty if it is unknown.
        stop: A signal to the whole process group ends the raylet, too; the exit code is then that
            of the signal.
    """
    process = _process_of(raylet_socket) if raylet_socket else None
    if process is None:
        yield
        return
    stopped, ending = os.pipe()
    thread = threading.Thread(target=_wait, args=(process, stopped, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(ending)
        thread.join()
        os.close(stopped)
        os.close(process)


def _wait(process: int, stopped: int, stop: StopSignal) -> None:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.register(stopped, select.POLLHUP)
    events = [file for file, _ in poll.poll()]
    if stopped in events:
        return
    time.sleep(SIGNAL_GRACE_S)
    stop.end_if_received()
    end_with_cluster()


def _process_of(unix_socket: str) -> int | None:
    """A file descriptor of the process that listens on a socket; it is readable once it ends."""
    if not hasattr(os, "pidfd_open"):
        return None
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(CONNECT_TIMEOUT_S)
        try:
            client.connect(unix_socket)
            size = struct.calcsize("3i")
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            return os.pidfd_open(struct.unpack("3i", credentials)[0])
        except OSError:
            return None
