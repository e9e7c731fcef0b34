"""The signals that ask a program to end: SIGINT, from Ctrl-C, and SIGTERM, from batch systems.

Python raises `KeyboardInterrupt` for SIGINT; with `raise_on_sigterm`, it raises `Interrupted`, a
subclass of it, for SIGTERM. Signals have handlers in the main thread only; elsewhere, these
functions do nothing.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import NoReturn

from manifests.errors import Interrupted

INTERRUPTED = "interrupted; run the same command to resume"
"""The message of a program that a signal has ended."""


def raise_on_sigterm() -> None:
    """Raises `Interrupted` in the main thread when SIGTERM arrives."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _raise)


def ignore_signals() -> None:
    """Ignores both signals until the program ends, after one of them has interrupted it.

    Further ones would interrupt its end.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def exit_code_of(error: KeyboardInterrupt) -> int:
    """Returns the exit code of a program that ends by this error."""
    return error.exit_code if isinstance(error, Interrupted) else 128 + signal.SIGINT


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)
