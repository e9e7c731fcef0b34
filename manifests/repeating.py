"""Repeats a call in a thread of its own while a context is open."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(call: Callable[[], object], *, every_s: float, name: str) -> Iterator[None]:
    """Makes a call every `every_s` seconds until the context ends, and waits for the last one.

    Args:
        call: The call, which must not raise.
        every_s: Seconds between the end of a call and the next one, and before the first.
        name: Name of the thread.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every_s):
            call()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
