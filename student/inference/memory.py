"""Converts a failed allocation for a batch of prompts to a one-line message with advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from manifests.errors import UserError


@contextmanager
def explained_batch_memory(size: int) -> Iterator[None]:
    """Converts a failed allocation to an error with advice.

    Args:
        size: Number of prompts in the batch.

    Raises:
        UserError: memory ran out in the context.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(_advice(size)) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise UserError(_advice(size)) from error
        raise


def _advice(size: int) -> str:
    if size > 1:
        return f"out of memory with a batch of {size}: lower --batch-size and run the command again"
    return (
        "out of memory with a single prompt: use shorter audio or fewer tokens (--max-tokens), or "
        "free memory on this device"
    )
