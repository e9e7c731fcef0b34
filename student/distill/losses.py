"""What the heads are taught: one loss per kind of stream, and the answer's cross-entropy.

Losses come as sums, and apart from them the counts that they are divided by. The trainer adds up
the counts of a whole accumulated batch over all processes before it divides, which is what makes
gradient accumulation exact: 1 x 4 examples give the gradient of 4 x 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from manifests.streams.specs import Kind
from student.distill.alignment import VOICED

# Legend: B clips, N frames (K * R), D columns, P parts of a loss (2 for pitch, else 1).

COSINE_SHARE = 0.9
"""Of the features loss; the rest is SmoothL1. The paper does not say; our assumption."""

TRAINABLE: tuple[Kind, ...] = ("features", "multilabel", "distribution", "pitch")
"""Kinds that can be learnt; `curve` is for people."""


def stream_counts(kind: Kind, target_BND: Tensor, covered_B: Tensor) -> Tensor:
    """counts_P: how many frames each part of a stream's loss is the mean of."""
    covered_BN = covered_B[:, None].expand(target_BND.shape[:2])
    if kind == "pitch":
        return torch.stack([covered_BN.sum(), (covered_BN & _voiced(target_BND)).sum()])
    return covered_BN.sum()[None]


def stream_sums(kind: Kind, output_BND: Tensor, target_BND: Tensor, covered_B: Tensor) -> Tensor:
    """sums_P: a stream's loss, summed over the frames of the clips that have it.

    Args:
        kind: Says how the head's output is meant.
        output_BND: Of the head: features, or logits.
        target_BND: Of the teacher; standardised for features, probabilities otherwise.
        covered_B: Which clips have the stream, boolean.
    """
    output_BND = output_BND.float()
    parts_PBN = _LOSSES[kind](output_BND, target_BND)
    return (parts_PBN * covered_B[:, None]).sum((1, 2))


def answer_sum(logits_AV: Tensor, labels_A: Tensor) -> Tensor:
    """Cross-entropy summed over the answer's A tokens."""
    return functional.cross_entropy(logits_AV.float(), labels_A, reduction="sum")


def _voiced(target_BND: Tensor) -> Tensor:
    return target_BND[..., -1] >= VOICED


def _features(output_BND: Tensor, target_BND: Tensor) -> Tensor:
    cosine_BN = functional.cosine_similarity(output_BND, target_BND, dim=-1)
    smooth_BN = functional.smooth_l1_loss(output_BND, target_BND, reduction="none").mean(-1)
    return (COSINE_SHARE * (1 - cosine_BN) + (1 - COSINE_SHARE) * smooth_BN)[None]


def _multilabel(output_BND: Tensor, target_BND: Tensor) -> Tensor:
    loss_BND = functional.binary_cross_entropy_with_logits(output_BND, target_BND, reduction="none")
    return loss_BND.mean(-1)[None]


def _distribution(output_BND: Tensor, target_BND: Tensor) -> Tensor:
    return -(target_BND * output_BND.log_softmax(-1)).sum(-1)[None]


def _pitch(output_BND: Tensor, target_BND: Tensor) -> Tensor:
    voicing_BN = functional.binary_cross_entropy_with_logits(
        output_BND[..., -1], target_BND[..., -1], reduction="none"
    )
    salience_BND = functional.normalize(target_BND[..., :-1], p=1.0, dim=-1)
    pitch_BN = -(salience_BND * output_BND[..., :-1].log_softmax(-1)).sum(-1)
    return torch.stack([voicing_BN, pitch_BN * _voiced(target_BND)])


_LOSSES: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {
    "features": _features,
    "multilabel": _multilabel,
    "distribution": _distribution,
    "pitch": _pitch,
}
