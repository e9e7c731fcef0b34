"""Metrics of a head's predictions, as numbers between 0 and 1; higher is better.

cosine: mean cosine similarity of standardised frames. mAP: mean average precision against targets
binarised at a threshold, over the classes that occur. accuracy: share of frames whose most likely
class is correct. raw pitch accuracy: share of voiced frames within 50 cents (Poliner et al. 2007).
`student.distill.kinds` assigns a metric to each kind of stream.
"""

from __future__ import annotations

import numpy as np

from manifests.streams.kinds import VOICED
from manifests.streams.pitch_bins import PitchBins

# Legend: N frames, D columns.

TOLERANCE_CENTS = 50


def cosine(output_ND: np.ndarray, target_ND: np.ndarray) -> float:
    """Computes the mean cosine similarity; the similarity of a zero vector is 0."""
    norms_N = np.linalg.norm(output_ND, axis=1) * np.linalg.norm(target_ND, axis=1)
    return float(((output_ND * target_ND).sum(1) / np.maximum(norms_N, 1e-8)).mean())


def mean_average_precision(scores_ND: np.ndarray, present_ND: np.ndarray) -> float:
    """Averages the average precision over the classes that are in some frames, not in all."""
    count_D = present_ND.sum(0)
    columns = np.flatnonzero((count_D > 0) & (count_D < len(present_ND)))
    if not len(columns):
        return float("nan")
    return float(np.mean([average_precision(scores_ND[:, d], present_ND[:, d]) for d in columns]))


def average_precision(scores_N: np.ndarray, present_N: np.ndarray) -> float:
    """Computes the area under the precision-recall curve.

    Equal scores are one step, so that a constant score gives the share of positives, independent
    of the order of the frames.
    """
    order_N = np.argsort(-scores_N, kind="stable")
    scores_N, present_N = scores_N[order_N], present_N[order_N]
    hits_N = np.cumsum(present_N)
    last = np.append(np.flatnonzero(np.diff(scores_N)), len(scores_N) - 1)
    precision = hits_N[last] / (last + 1)
    gained = np.diff(hits_N[last], prepend=0)
    return float((precision * gained).sum() / hits_N[-1])


def accuracy(output_ND: np.ndarray, target_ND: np.ndarray) -> float:
    """Computes the share of frames in which the largest output is the largest target."""
    return float((output_ND.argmax(1) == target_ND.argmax(1)).mean())


def raw_pitch_accuracy(logits_ND: np.ndarray, target_ND: np.ndarray, bins: PitchBins) -> float:
    """Computes the share of voiced frames whose pitch is within 50 cents.

    The predicted voicing has no effect.

    Args:
        logits_ND: Output of a head: a logit per bin, then the logit of voicing.
        target_ND: Salience per bin, then voicing probability.
        bins: The grid of both.
    """
    voiced_N = target_ND[:, -1] >= VOICED
    if not voiced_N.any():
        return float("nan")
    logits_ND = logits_ND[voiced_N, :-1]
    salience_ND = np.exp(logits_ND - logits_ND.max(1, keepdims=True))
    error_N = bins.peak(salience_ND) - bins.peak(target_ND[voiced_N, :-1])
    return float((np.abs(error_N) * bins.cents_per_bin <= TOLERANCE_CENTS).mean())


def voicing_rates(logits_ND: np.ndarray, target_ND: np.ndarray) -> dict[str, float]:
    """Computes voicing recall and false alarms of unvoiced frames (Poliner et al. 2007)."""
    predicted_N, voiced_N = logits_ND[:, -1] > 0, target_ND[:, -1] >= VOICED
    return {
        "voicing_recall": _mean(predicted_N[voiced_N]),
        "voicing_false_alarm": _mean(predicted_N[~voiced_N]),
    }


def frame_f1(logits_ND: np.ndarray, target_ND: np.ndarray, threshold: float) -> dict[str, float]:
    """Computes precision, recall and F1 over classes and frames, thresholding both sides.

    For note posteriors, this is the frame-level F1 of transcription.
    """
    predicted_ND = 1 / (1 + np.exp(-logits_ND.clip(-60, 60))) >= threshold
    present_ND = target_ND >= threshold
    hits = float((predicted_ND & present_ND).sum())
    precision, recall = hits / max(predicted_ND.sum(), 1), hits / max(present_ND.sum(), 1)
    total = precision + recall
    return {
        "frame_precision": precision,
        "frame_recall": recall,
        "frame_f1": 2 * precision * recall / total if total else 0.0,
    }


def _mean(values_N: np.ndarray) -> float:
    return float(values_N.mean()) if len(values_N) else float("nan")
