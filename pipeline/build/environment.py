"""The environment that Ray needs before it is imported, and the signals that end a build."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from manifests.errors import Interrupted

SHUTDOWN_S = 20.0
"""A cluster that has not stopped by then is left to itself, and the process ends."""


def prepare(*, local: bool) -> None:
    """Sets what Ray reads when it is imported.

    A local cluster listens on every interface of the machine, so it gets a token of its own: who
    does not have it cannot run code there.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    if local and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


class StopSignal:
    """SIGINT or SIGTERM, noticed at a safe place instead of in the middle of Ray's native code."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._timer: threading.Timer | None = None

    def check(self) -> None:
        """Raises `Interrupted` once a signal has come."""
        if self._received is not None:
            raise Interrupted(self._received)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first signal counts, further ones change nothing."""
        if self._received is None:
            self._received = number
            self._timer = threading.Timer(SHUTDOWN_S, os._exit, [128 + number])
            self._timer.daemon = True
            self._timer.start()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM within; after a signal, until the process ends."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._received is None:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def install(self) -> None:
        """Takes the signals over; again after Ray has started, which installs handlers too."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.receive)
