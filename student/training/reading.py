"""Keeps training running despite unreadable clips or an unreliable network.

An example that cannot be prepared is replaced by the next one, up to a limit; failed requests to a
store are retried.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from manifests.errors import StoreError, UserError
from student.batch import PreparedExample

logger = logging.getLogger(__name__)

MAX_SKIPPED_SHARE = 0.01
MAX_SKIPPED_AT_LEAST = 10
"""Number of different examples that may be replaced before training stops: the larger of this share
and this number."""
RETRY_SECONDS = (1.0, 5.0, 25.0)
"""Pauses before retries of a store, in seconds."""


class SkippingDataset(Dataset):
    """Replaces examples that cannot be prepared by the next one.

    Args:
        dataset: A dataset that raises UserError for an example that cannot be prepared.
    """

    def __init__(self, dataset: Dataset[PreparedExample] | Sequence[PreparedExample]) -> None:
        self._dataset: Any = dataset
        self._limit = max(MAX_SKIPPED_AT_LEAST, round(MAX_SKIPPED_SHARE * len(self._dataset)))
        context = multiprocessing.get_context("fork")
        self._num_skipped = context.Value("q", 0)
        self._is_skipped = context.RawArray("b", max(1, len(self._dataset)))
        """1 for each skipped example, shared by all workers."""
        self._reported: set[str] = set()

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def num_skipped(self) -> int:
        """Number of different examples that were replaced, in all workers of this process."""
        return self._num_skipped.value

    def __getitem__(self, index: int) -> PreparedExample:
        while True:
            try:
                return self._read_with_retries(index)
            except UserError as error:
                with self._num_skipped.get_lock():
                    # The same example fails again in every epoch.
                    self._num_skipped.value += 1 - self._is_skipped[index]
                    self._is_skipped[index] = 1
                    count = self._num_skipped.value
                if count == len(self):
                    raise UserError(
                        f"none of the {count} examples could be prepared; the last one: {error}"
                    ) from None
                if count > self._limit:
                    raise UserError(
                        f"{count} examples could not be prepared, more than the {self._limit} that "
                        f"are left out; the last one: {error}"
                    ) from None
                # A clip with several questions fails in every one of them, and in every epoch.
                if str(error) not in self._reported:
                    self._reported.add(str(error))
                    logger.warning("example %d is skipped: %s", index, error)
                index = (index + 1) % len(self)

    def _read_with_retries(self, index: int) -> PreparedExample:
        for seconds in RETRY_SECONDS:
            try:
                return self._dataset[index]
            except StoreError as error:
                logger.warning("%s; retrying in %g s", error, seconds)
                time.sleep(seconds)
        return self._dataset[index]
