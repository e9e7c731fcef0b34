"""Sets the environment that Ray reads on import, and handles the signals that stop a build."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from manifests.errors import Interrupted, UserError
from manifests.interruptions import INTERRUPTED
from manifests.repeating import repeated

SHUTDOWN_S = 20.0
"""Seconds to wait for the cluster to stop before the process ends without it."""
IGNORE_EVERY_S = 0.001
"""Interval at which SIGTERM is set to be ignored while Ray stops."""
CONNECT_S = 10.0
"""Seconds to wait for the address of a cluster to accept a connection."""


NO_CLUSTER = "Could not find any running Ray instance"
"""Ray's message if the address is `auto` and there is no cluster on this machine."""
GCS_PORT = 6379
"""Default port of `ray start --head`."""
LAST_PORT = 65_535
TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray keeps the token of the clusters that this user starts."""


def prepare(*, local: bool) -> None:
    """Sets the environment variables that Ray reads on import.

    A local cluster listens on every interface of the machine, so it gets its own token, without
    which nobody can run code there.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    # The scheduler handles every error of a worker; Ray would print those of calls that it dropped.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if local and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def advice_on_connecting(reason: str = "") -> str:
    """Advice for a cluster that this process cannot join.

    Args:
        reason: Ray's message.
    """
    if NO_CLUSTER in reason:
        return "start one with `ray start --head`, or leave --ray-address out for a local one"
    token = ""
    if "RAY_AUTH_MODE" not in os.environ:
        place = f" (there is one in {TOKEN_FILE})" if TOKEN_FILE.expanduser().exists() else ""
        token = f"; if it asks for Ray's token{place}, run the command with RAY_AUTH_MODE=token"
    return (
        "correct --ray-address, start a cluster with `ray start --head`, or leave --ray-address "
        f"out for a local one{token}"
    )


class StopSignal:
    """Records SIGINT and SIGTERM, to raise at a safe place instead of within Ray's native code."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._timer: threading.Timer | None = None

    def check(self) -> None:
        """Raises `Interrupted` if a signal was received."""
        if self._received is not None:
            raise Interrupted(self._received)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler; only the first signal has an effect."""
        if self._received is None:
            self._received = number
            self._timer = threading.Timer(SHUTDOWN_S, _end_at_once, [number])
            self._timer.daemon = True
            self._timer.start()

    def end_if_received(self) -> None:
        """Ends the process at once if a signal was received, because nothing else can be done."""
        if self._received is not None:
            _end_at_once(self._received)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM in a context; after a signal, until the process ends."""
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

    @contextlib.contextmanager
    def kept_while_ray_stops(self) -> Iterator[None]:
        """Ignores SIGTERM while Ray is stopped, and installs the handlers again.

        Ray resets SIGTERM to its default early in `ray.shutdown()`. A second signal would then end
        the process in the middle of it, without a message.
        """
        set_handler = ctypes.CDLL(None).signal
        set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p

        def ignore() -> None:
            set_handler(signal.SIGTERM, int(signal.SIG_IGN))

        try:
            with repeated(ignore, every_s=IGNORE_EVERY_S, name="ignore SIGTERM"):
                yield
        finally:
            self.install()

    def install(self) -> None:
        """Installs the handlers; called again after Ray has started, which installs its own."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.receive)


def _end_at_once(number: int) -> None:
    """Ends the process after a signal, with its message and without waiting for Ray any longer."""
    print(f"coat-cache: {INTERRUPTED}", file=sys.stderr, flush=True)
    os._exit(128 + number)


def check_address(address: str) -> None:
    """Checks that something listens at a cluster's address; Ray itself tries for many minutes.

    Raises:
        UserError: nothing does, or it is no address.
    """
    place = address.removeprefix("ray://")
    if address == "auto" or "://" in place:
        return  # `auto`, or an address of a service that Ray knows.
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= LAST_PORT:
        raise UserError(
            f"--ray-address {address!r}: expected HOST:PORT ({GCS_PORT} unless `ray start` was "
            "given another port), ray://HOST:PORT or auto; leave it out for a local cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"no Ray cluster answers at {address!r} ({reason}); start one with `ray start --head`, "
            "correct --ray-address, or leave it out for a local cluster"
        ) from None


def find_modules(paths: Iterable[str]) -> None:
    """Checks additional modules, and lets this process import them, too, to describe teachers.

    Raises:
        UserError: a path is no folder, Python file or wheel on this machine.
    """
    for path in paths:
        local = Path(path)
        is_file = local.is_file() and local.suffix in (".py", ".whl")
        if "://" not in path and not is_file and not local.is_dir():
            raise UserError(
                f"--py-modules: {path!r} is not here; expected the folder of a package, a .py file "
                "or a wheel on this machine, or the address of a zip file"
            )
        if "://" not in path:
            place = local if local.suffix == ".whl" else local.absolute().parent
            if str(place) not in sys.path:
                sys.path.append(str(place))
