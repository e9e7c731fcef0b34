"""What to do when memory runs out: the traceback of an allocator tells nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from manifests.errors import UserError
from student.config import StageConfig


@contextmanager
def explained_shortage(name: str, stage: StageConfig) -> Iterator[None]:
    """Turns a failed allocation, on a GPU or the CPU, into what to lower.

    Args:
        name: Of the stage.
        stage: Its settings, which the advice starts from.

    Raises:
        UserError: memory ran out within.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(_advice(name, stage)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise UserError(_advice(name, stage)) from error


def _advice(name: str, stage: StageConfig) -> str:
    steps = []
    if stage.batch_size > 1:
        factor = 2 if stage.batch_size % 2 == 0 else stage.batch_size
        steps.append(
            f"lower {name}.batch_size from {stage.batch_size} to {stage.batch_size // factor} and "
            f"raise {name}.accumulation from {stage.accumulation} to {stage.accumulation * factor} "
            "(the result is the same)"
        )
    if not stage.checkpointing:
        steps.append(f"set {name}.checkpointing to true")
    steps.append("lower data.max_duration, or load the backbone by model.quantize: 4bit")
    return (
        f"out of memory in {name} with batches of {stage.batch_size}: {'; '.join(steps)}; "
        "a changed recipe needs another --out"
    )
