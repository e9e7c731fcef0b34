"""Prefetches in threads, so that the driver does not wait for an object store."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from manifests.clips import Clip
from manifests.corpus.corpus import Corpus

Key = TypeVar("Key")
Value = TypeVar("Value")

READERS = 32
"""Number of parallel requests: with 40 ms each, 800 shards per second."""
AHEAD = 64
"""Maximum number of prefetched results."""


def read_ahead(read: Callable[[Key], Value], keys: Iterable[Key]) -> Iterator[Value]:
    """Yields `map(read, keys)` in order, with up to `AHEAD` reads running or done in advance."""
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


class Prefetch(Generic[Value]):
    """Iterates over an iterable in a thread, so that its next value is ready.

    Args:
        values: The iterable.
    """

    def __init__(self, values: Iterable[Value]) -> None:
        self._queue: queue.Queue[tuple[bool, Any]] = queue.Queue(AHEAD)
        self._is_closed = threading.Event()
        self._values = values
        self.is_over = False
        """Whether the last value has been taken."""
        threading.Thread(target=self._fill, name="prefetch", daemon=True).start()

    def take(self, timeout: float = 0.0) -> Value | None:
        """The next value; None if it is not ready within the time, or if there is none.

        Raises:
            BaseException: the error of the iterable.
        """
        try:
            is_value, value = self._queue.get(block=timeout > 0, timeout=timeout or None)
        except queue.Empty:
            return None
        if is_value:
            return value
        self.is_over = True
        if value is not None:
            raise value
        return None

    def close(self) -> None:
        """Stops the thread."""
        self._is_closed.set()

    def _fill(self) -> None:
        error: BaseException | None = None
        try:
            for value in self._values:
                if not self._put(True, value):
                    break
        except BaseException as raised:  # noqa: BLE001  (it is raised where the value is taken)
            error = raised
        finally:
            if isinstance(self._values, Generator):
                self._values.close()
        self._put(False, error)

    def _put(self, is_value: bool, value: Any) -> bool:
        while not self._is_closed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put((is_value, value), timeout=0.2)
                return True
        return False


def read_shards(corpus: Corpus, numbers: Iterable[int]) -> Iterator[list[Clip]]:
    """Yields the clips of a corpus's shards in order, with prefetching. Every thread opens its own
    files."""
    own = threading.local()

    def read(number: int) -> list[Clip]:
        if not hasattr(own, "corpus"):
            own.corpus = Corpus(corpus.folder.uri, corpus.contents)
        return own.corpus.shard(number)

    return read_ahead(read, numbers)
