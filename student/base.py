"""`coat-student base`: a language model learns to listen before any arm is trained.

Audio language models as they are published have been through this; a small one that is put
together from packages has not. Projector and LoRA learn transcripts, captions and questions, then
the adapters are merged: what comes out is a plain checkpoint, from which all arms start.
"""

from __future__ import annotations

from pathlib import Path

from manifests.errors import UserError
from student.release.export import Proof, export
from student.run_options import TrainOptions
from student.train import train

CHECKPOINT = "checkpoint"
"""Folder of the finished model in the run's folder; `model.path` of the arms' recipes."""


def build_base(options: TrainOptions) -> Proof:
    """Trains, or goes on with an unfinished run, and writes OUT/checkpoint.

    Raises:
        UserError: the recipe has a block or heads, or OUT/checkpoint exists.
    """
    if options.has_block or options.distils:
        raise UserError(
            f"a base is trained without block and heads, and the arm is {options.arm}; set arm: sft"
        )
    checkpoint = Path(options.out) / CHECKPOINT
    if checkpoint.exists():
        raise UserError(f"{checkpoint} exists: this base is finished; choose another --out")
    train(options)
    return export(options.out, checkpoint)
