"""`coat-student base`: trains a language model to process audio before any arm is trained.

Published audio language models have been trained on audio; a small one that is assembled from
packages has not. Projector and LoRA are trained on transcripts, captions and questions, and the
adapters are merged. The result is a plain checkpoint from which all arms start.
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
    """Trains, or resumes an unfinished run, and writes OUT/checkpoint.

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
