"""Keeps decoders open between calls, so that the next clips of a file continue where these ended.

Decoders whose state depends on all earlier audio (AAC, SILK) would otherwise decode an hour again
for each block of clips. Only the last few are kept, under a key that identifies the file's content.
A child process starts without any.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Protocol

KEPT = 2
"""Number of decoders that a process keeps open."""


class Decoder(Protocol):
    """A decoder that can be closed."""

    def close(self) -> None:
        """Closes the decoder and its file."""
        ...


_lock = threading.Lock()
_kept: OrderedDict[object, Decoder] = OrderedDict()


def take(stamp: object) -> Decoder | None:
    """Removes and returns the decoder of a file; the caller then owns it."""
    with _lock:
        return _kept.pop(stamp, None)


def keep(stamp: object, decoder: Decoder) -> None:
    """Keeps a decoder, and closes the least recently used ones."""
    with _lock:
        _kept[stamp] = decoder
        old = [_kept.popitem(last=False)[1] for _ in range(len(_kept) - KEPT)]
    for each in old:
        each.close()


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    _kept.clear()


os.register_at_fork(after_in_child=_forget)
