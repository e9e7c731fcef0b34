"""Limits data workers to one thread each, because they share the cores.

Feature extraction and resampling call BLAS and OpenMP, whose pools have one thread per core of the
machine: eight workers on 96 cores would have 768 threads for small products.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController, threadpool_limits
from torch.utils.data import get_worker_info


@functools.cache
def limit_worker_threads() -> None:
    """Limits this process permanently to one thread in BLAS, OpenMP and torch."""
    threadpool_limits(1)
    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits BLAS to one thread while an example is prepared.

    A loader's worker is limited permanently at the first call; in the training process, which uses
    its threads otherwise, the limit is removed again.
    """
    if get_worker_info() is not None:
        limit_worker_threads()
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
