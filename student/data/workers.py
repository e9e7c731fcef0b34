"""Data workers use one thread each: they share the cores with the others.

Feature extraction and resampling call BLAS and OpenMP, whose pools have a thread for every core of
the machine; with eight workers on 96 cores that would be 768 threads for tiny products.
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
    """Keeps this process to one thread in BLAS, OpenMP and torch, for good."""
    threadpool_limits(1)
    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps BLAS to one thread while an example is prepared.

    A loader's worker is limited for good, the first time; the trainer itself, which has other work
    for its threads, gets them back.
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
