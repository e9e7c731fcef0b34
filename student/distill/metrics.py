"""How well the heads read the block, as one number per stream, each against the mean predictor.

features: cosine similarity of standardised frames. multilabel: mean average precision against
targets binarised at a threshold, over the classes that occur. distribution: share of frames whose
likeliest class is right. pitch: raw pitch accuracy, the share of voiced frames within 50 cents
(Poliner et al. 2007). All are between 0 and 1, higher is better, and are means over held-out
frames. The mean predictor says the same for every frame, the mean target of the training clips: a
head that does not beat it has learnt nothing about the audio.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from manifests.streams.specs import Kind
from student.distill.alignment import VOICED

# Legend: N frames, D columns.

CENTS_PER_BIN = 20
"""Of CREPE's 360 bins of salience (Kim et al. 2018)."""
TOLERANCE_CENTS = 50
NEIGHBOURS = 4
"""Bins on each side of the peak that refine it, as in CREPE."""

NAMES: dict[Kind, str] = {
    "features": "cosine",
    "multilabel": "mAP",
    "distribution": "accuracy",
    "pitch": "raw pitch accuracy",
}


def stream_metric(
    kind: Kind, output_ND: np.ndarray, target_ND: np.ndarray, threshold: float
) -> float:
    """The metric of a stream's kind; NaN where there is nothing to measure it on.

    Args:
        kind: Says how frames are meant.
        output_ND: Of the head: standardised features, or logits.
        target_ND: Standardised features, or probabilities.
        threshold: From which target value on a class counts as present (multilabel).
    """
    if not len(target_ND):
        return float("nan")
    if kind == "multilabel":
        return mean_average_precision(output_ND, target_ND >= threshold)
    return _METRICS[kind](output_ND, target_ND)


def constant_output(kind: Kind, mean_D: np.ndarray) -> np.ndarray:
    """output_D of a head that always predicts this mean target: the baseline to beat."""
    if kind == "features":
        return mean_D
    clipped_D = mean_D.clip(1e-6, 1 - 1e-6)
    return np.log(clipped_D) if kind != "multilabel" else np.log(clipped_D / (1 - clipped_D))


def cosine(output_ND: np.ndarray, target_ND: np.ndarray) -> float:
    """Mean cosine similarity; a zero vector is similar to nothing."""
    norms_N = np.linalg.norm(output_ND, axis=1) * np.linalg.norm(target_ND, axis=1)
    return float(((output_ND * target_ND).sum(1) / np.maximum(norms_N, 1e-8)).mean())


def mean_average_precision(scores_ND: np.ndarray, present_ND: np.ndarray) -> float:
    """Average precision, averaged over the classes that are present in some frames, not in all."""
    count_D = present_ND.sum(0)
    columns = np.flatnonzero((count_D > 0) & (count_D < len(present_ND)))
    if not len(columns):
        return float("nan")
    return float(np.mean([average_precision(scores_ND[:, d], present_ND[:, d]) for d in columns]))


def average_precision(scores_N: np.ndarray, present_N: np.ndarray) -> float:
    """Area under the precision-recall steps; equal scores are one step, so that a constant score
    gives the share of positives whatever the order of the frames."""
    order_N = np.argsort(-scores_N, kind="stable")
    scores_N, present_N = scores_N[order_N], present_N[order_N]
    hits_N = np.cumsum(present_N)
    last = np.append(np.flatnonzero(np.diff(scores_N)), len(scores_N) - 1)
    precision = hits_N[last] / (last + 1)
    gained = np.diff(hits_N[last], prepend=0)
    return float((precision * gained).sum() / hits_N[-1])


def raw_pitch_accuracy(output_ND: np.ndarray, target_ND: np.ndarray) -> float:
    """Share of the voiced frames whose pitch is within 50 cents, voicing decisions aside."""
    voiced_N = target_ND[:, -1] >= VOICED
    if not voiced_N.any():
        return float("nan")
    logits_ND = output_ND[voiced_N, :-1]
    salience_ND = np.exp(logits_ND - logits_ND.max(1, keepdims=True))
    error_N = peak_cents(salience_ND) - peak_cents(target_ND[voiced_N, :-1])
    return float((np.abs(error_N) <= TOLERANCE_CENTS).mean())


def peak_cents(salience_ND: np.ndarray) -> np.ndarray:
    """Pitch above the lowest bin, in cents: the mean around the peak weighted by salience."""
    peak_N = salience_ND.argmax(1)
    index_ND = peak_N[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    inside_ND = (index_ND >= 0) & (index_ND < salience_ND.shape[1])
    index_ND = index_ND.clip(0, salience_ND.shape[1] - 1)
    weight_ND = np.take_along_axis(salience_ND, index_ND, 1) * inside_ND
    total_N = np.maximum(weight_ND.sum(1), 1e-12)
    return CENTS_PER_BIN * (weight_ND * index_ND).sum(1) / total_N


def _accuracy(output_ND: np.ndarray, target_ND: np.ndarray) -> float:
    return float((output_ND.argmax(1) == target_ND.argmax(1)).mean())


_METRICS: dict[Kind, Callable[[np.ndarray, np.ndarray], float]] = {
    "features": cosine,
    "distribution": _accuracy,
    "pitch": raw_pitch_accuracy,
}
