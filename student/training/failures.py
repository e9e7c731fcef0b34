"""Converts failures of a training to one-line messages with advice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from manifests.errors import UserError, is_disk_full
from student.config import StageConfig


@contextmanager
def explained_disk(folder: Path) -> Iterator[None]:
    """Converts a full disk to an error with advice.

    Args:
        folder: Folder of the run.

    Raises:
        UserError: disk space ran out in the context.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise UserError(
                f"the disk of {folder} is full; free some space and run the same command again: it "
                "resumes from the last complete checkpoint"
            ) from error
        raise


@contextmanager
def explained_memory(name: str, stage: StageConfig, *, can_quantize: bool) -> Iterator[None]:
    """Converts a failed allocation to an error with advice.

    Args:
        name: Name of the stage.
        stage: Its settings, to which the advice refers.
        can_quantize: Whether the backbone could be loaded in 4 bits, and is not.

    Raises:
        UserError: memory ran out in the context.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(_memory_advice(name, stage, can_quantize)) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise UserError(_memory_advice(name, stage, can_quantize)) from error
        raise


def check_finite(loss: float, *, stage: str, step: int) -> None:
    """Stops a training that has diverged.

    Raises:
        UserError: the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise UserError(
            f"{stage} has diverged: the loss is {loss} at step {step}; checkpoints before it are "
            f"kept. Lower {stage}.lr, {stage}.embeddings_lr or {stage}.heads_lr, or raise "
            f"{stage}.warmup, and choose another --out"
        )


def _memory_advice(name: str, stage: StageConfig, can_quantize: bool) -> str:
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
    steps.append("lower data.max_duration")
    if can_quantize:
        steps.append("load the backbone by model.quantize: 4bit")
    return (
        f"out of memory in {name} with batches of {stage.batch_size}: {'; or '.join(steps)}; "
        "a run that has a checkpoint needs another --out for a changed recipe"
    )
