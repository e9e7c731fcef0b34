"""Decoders that stay open between calls, so that the next clips of a file go on where these ended.

A decoder that hangs on all of its past (AAC, SILK) would otherwise decode an hour again for each
block of clips. Only the last few are kept, each by what names its file's content; a child process
begins without any.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Protocol

KEPT = 2
"""Decoders that a process keeps open."""


class Decoder(Protocol):
    """A decoder that can be closed."""

    def close(self) -> None:
        """Ends it, with its file."""
        ...


_lock = threading.Lock()
_kept: OrderedDict[object, Decoder] = OrderedDict()


def take(stamp: object) -> Decoder | None:
    """The decoder of a file, which is then the caller's."""
    with _lock:
        return _kept.pop(stamp, None)


def keep(stamp: object, decoder: Decoder) -> None:
    """Keeps a decoder, and closes those that were not used for longest."""
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
