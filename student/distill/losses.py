"""The loss of each kind of stream, frame by frame, and the answer's cross-entropy.

A loss of a stream has parts (salience and voicing of a pitch stream, else one), each with a value
for every frame. `student.distill.kinds` computes sums and the counts by which they are divided.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from manifests.streams.kinds import VOICED

# Legend: B clips, N frames (K * R), D columns, P parts of a loss (2 for pitch, else 1),
# A tokens of answers, V vocabulary.

COSINE_SHARE = 0.9
"""Weight of the cosine term in the features loss; the rest is SmoothL1. This is our assumption: the
paper does not specify it."""


def answer_sum(logits_AV: Tensor, labels_A: Tensor) -> Tensor:
    """Sums the cross-entropy over the answer's A tokens."""
    return functional.cross_entropy(logits_AV.float(), labels_A, reduction="sum")


def features_loss(output_BND: Tensor, target_BND: Tensor) -> Tensor:
    """Computes parts_PBN: cosine distance and SmoothL1, weighted."""
    cosine_BN = functional.cosine_similarity(output_BND, target_BND, dim=-1)
    smooth_BN = functional.smooth_l1_loss(output_BND, target_BND, reduction="none").mean(-1)
    return (COSINE_SHARE * (1 - cosine_BN) + (1 - COSINE_SHARE) * smooth_BN)[None]


def multilabel_loss(logits_BND: Tensor, target_BND: Tensor) -> Tensor:
    """Computes parts_PBN: binary cross-entropy against soft targets, averaged over classes."""
    loss_BND = functional.binary_cross_entropy_with_logits(logits_BND, target_BND, reduction="none")
    return loss_BND.mean(-1)[None]


def distribution_loss(logits_BND: Tensor, target_BND: Tensor) -> Tensor:
    """Computes parts_PBN: cross-entropy against a soft distribution."""
    return -(target_BND * logits_BND.log_softmax(-1)).sum(-1)[None]


def pitch_loss(logits_BND: Tensor, target_BND: Tensor) -> Tensor:
    """Computes parts_PBN: voicing, then salience, in voiced frames only."""
    voicing_BN = functional.binary_cross_entropy_with_logits(
        logits_BND[..., -1], target_BND[..., -1], reduction="none"
    )
    salience_BND = functional.normalize(target_BND[..., :-1], p=1.0, dim=-1)
    pitch_BN = -(salience_BND * logits_BND[..., :-1].log_softmax(-1)).sum(-1)
    return torch.stack([voicing_BN, pitch_BN * voiced(target_BND)])


def frame_counts(target_BND: Tensor, covered_BN: Tensor) -> Tensor:
    """Returns counts_P of a loss with one part, the mean over all covered frames."""
    return covered_BN.sum()[None]


def pitch_counts(target_BND: Tensor, covered_BN: Tensor) -> Tensor:
    """Returns counts_P of the pitch loss: covered frames, and covered voiced frames."""
    return torch.stack([covered_BN.sum(), (covered_BN & voiced(target_BND)).sum()])


def voiced(target_BND: Tensor) -> Tensor:
    """Whether each frame of a pitch target has a pitch."""
    return target_BND[..., -1] >= VOICED
