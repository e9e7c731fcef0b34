"""Reads what is needed next in threads, so that the driver does not wait for an object store."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from manifests.clips import Clip
from manifests.corpus.corpus import Corpus

Key = TypeVar("Key")
Value = TypeVar("Value")

READERS = 32
"""Requests at once: with 40 ms each, 800 shards a second."""
AHEAD = 64
"""Results that are kept before they are asked for."""


def read_ahead(read: Callable[[Key], Value], keys: Iterable[Key]) -> Iterator[Value]:
    """`map(read, keys)`, in order, with up to `AHEAD` reads under way or done."""
    remaining = iter(keys)
    with ThreadPoolExecutor(READERS, thread_name_prefix="read-ahead") as pool:
        pending: deque[Future[Value]] = deque()
        try:
            for key in remaining:
                pending.append(pool.submit(read, key))
                if len(pending) >= AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def read_shards(corpus: Corpus, numbers: Iterable[int]) -> Iterator[list[Clip]]:
    """The clips of a corpus's shards, in order, read ahead. Every thread has files of its own."""
    own = threading.local()

    def read(number: int) -> list[Clip]:
        if not hasattr(own, "corpus"):
            own.corpus = Corpus(corpus.folder.uri, corpus.contents)
        return own.corpus.shard(number)

    return read_ahead(read, numbers)
