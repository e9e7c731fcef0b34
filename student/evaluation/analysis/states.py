"""Hidden states of a student at three groups of positions, at every layer, over many clips.

Audio positions are the audio tokens of the prompt; thinking positions the block's content tokens;
the decision position is the last of the prompt, from which the first word of the answer is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from manifests.console import messages
from student.distill.alignment import span_weights
from student.evaluation.analysis.state_edits import thinking_places
from student.evaluation.answering import QuestionRunner
from student.evaluation.questions import Question

# Legend: L layers + 1 (the embeddings), C clips, K positions of a group, H width.

GROUPS = ("audio", "thinking", "decision")


@dataclass(frozen=True)
class States:
    """What one group of positions holds."""

    group: str
    values_LCKH: np.ndarray
    """float32; audio tokens averaged to as many equal time spans as there are thinking positions;
    K is 1 for the decision."""


@torch.no_grad()
def collect(
    examinee: QuestionRunner, questions: Sequence[Question], *, num_spans: int
) -> dict[str, States]:
    """States of all groups that a student has.

    Args:
        examinee: The student.
        questions: One per clip.
        num_spans: K of the audio group; of the thinking group, too, where there is a block.
    """
    student = examinee.trained.student
    token = student.backbone.audio_token_id(student.base)
    found: dict[str, dict[int, np.ndarray]] = {group: {} for group in GROUPS}
    batches = list(examinee.batches(questions))
    for places, inputs in track(
        batches, f"states of {examinee.path}", console=messages, transient=True
    ):
        outputs = student.base.model(
            **inputs,
            **student.backbone.positions(inputs),
            output_hidden_states=True,
            use_cache=False,
        )
        states_LBSH = torch.stack([hidden.float() for hidden in outputs.hidden_states])
        ids_BS = inputs["input_ids"]
        for row, place in enumerate(places):
            states_LSH = states_LBSH[:, row]
            found["audio"][place] = _spans(states_LSH[:, ids_BS[row] == token], num_spans)
            found["decision"][place] = states_LSH[:, -1:].cpu().numpy()
            if student.block is not None:
                thinking_S = thinking_places(student, ids_BS[row])
                found["thinking"][place] = states_LSH[:, thinking_S].cpu().numpy()
    return {
        group: States(group, np.stack([by_place[at] for at in range(len(questions))], axis=1))
        for group, by_place in found.items()
        if by_place
    }


def _spans(states_LAH: Tensor, num_spans: int) -> np.ndarray:
    """Audio states averaged over equal time spans of the clip."""
    count = states_LAH.shape[1]
    weights_KA = span_weights(count, start_s=0.5, hop_s=1.0, duration=count, num_spans=num_spans)
    return np.einsum("ka,lah->lkh", weights_KA, states_LAH.cpu().numpy())
