"""Collects hidden states of a student at three groups of positions and every layer, for many clips.

Audio positions are the audio tokens of the prompt, thinking positions the block's content tokens.
The decision position is the last one of the prompt, which predicts the first token of the answer.
States of a thousand clips of a large model take tens of gigabytes, so they are stored in float16 in
a file per layer and group, and only one batch is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manifests.errors import UserError
from manifests.progress import progress
from student.data.arrow_files import take_space
from student.distill.alignment import span_matrix
from student.evaluation.analysis.state_edits import thinking_places
from student.evaluation.answering import QuestionRunner
from student.evaluation.questions import Question

# Legend: L layers + 1 (the embeddings), C clips, K positions of a group, H width.

GROUPS = ("audio", "thinking", "decision")
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class States:
    """The states of one group of positions, layer by layer."""

    group: str
    layers: tuple[np.ndarray, ...]
    """L arrays values_CKH, float16, mapped from files; audio tokens are averaged to as many equal
    time spans as there are thinking positions; K is 1 for the decision."""


@torch.no_grad()
def collect(
    runner: QuestionRunner, questions: Sequence[Question], folder: Path, *, num_spans: int
) -> dict[str, States]:
    """Collects the states of all groups that a student has.

    Args:
        runner: The student.
        questions: One per clip.
        folder: Folder for the files of states.
        num_spans: K of the audio group and, if there is a block, of the thinking group.

    Raises:
        UserError: the audio of a clip cannot be read.
    """
    student = runner.trained.student
    token = student.backbone.audio_token_id(student.base)
    files: dict[str, list[np.memmap]] = {}

    def keep(group: str, place: int, values_LKH: Tensor) -> None:
        values = values_LKH.float().clamp(-_LARGEST, _LARGEST).cpu().numpy()
        if group not in files:
            shape = (len(questions), *values.shape[1:])
            files[group] = [
                np.memmap(folder / f"{group}-{layer}.f16", np.float16, "w+", shape=shape)
                for layer in range(len(values))
            ]
            for layer in range(len(values)):
                take_space(folder / f"{group}-{layer}.f16")
        for file, values_KH in zip(files[group], values, strict=True):
            file[place] = values_KH

    with progress(f"states of {runner.path}", len(questions), "clips") as advance:
        for batch in runner.batches(questions):
            outputs = student.base.model(
                **batch.inputs,
                **student.backbone.positions(batch.inputs),
                output_hidden_states=True,
                use_cache=False,
            )
            ids_BS = batch.inputs["input_ids"]
            for row, place in enumerate(batch.places):
                states_LSH = torch.stack([hidden[row] for hidden in outputs.hidden_states])
                keep("audio", place, _spans(states_LSH[:, ids_BS[row] == token], num_spans))
                keep("decision", place, states_LSH[:, -1:])
                if student.block is not None:
                    keep("thinking", place, states_LSH[:, thinking_places(student, ids_BS[row])])
            advance(len(batch.places))
    if runner.failures:
        raise UserError(next(iter(runner.failures.values())))
    return {group: States(group, tuple(files[group])) for group in GROUPS if group in files}


def _spans(states_LAH: Tensor, num_spans: int) -> Tensor:
    """Audio states averaged over equal time spans of the clip."""
    count = states_LAH.shape[1]
    weights_KA = torch.from_numpy(
        span_matrix(count, start_s=0.5, hop_s=1.0, duration=count, num_spans=num_spans).toarray()
    ).to(states_LAH.device)
    return torch.einsum("ka,lah->lkh", weights_KA, states_LAH.float())
