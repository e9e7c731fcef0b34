"""One record per stream kind: its loss, metric, baseline and read-out.

The record for numpy code (mask, unit, appearance, name of the metric) is in
`manifests.streams.kinds`. No other code in `student` compares a kind's name: it reads fields of the
record.

Losses are sums, with separate counts by which they are divided. The trainer sums the counts of a
whole accumulated batch over all processes before dividing, so gradient accumulation is exact: 1 x 4
examples give the gradient of 4 x 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from manifests.streams.pitch_bins import PitchBins
from student.distill import losses, metrics

# Legend: B clips, N frames (K * R), D columns, P parts of a loss (2 for pitch, else 1).


class MeasuredStream(Protocol):
    """The fields of a stream that metrics use (`student.distill.streams.Stream` has them)."""

    @property
    def kind(self) -> str:
        """A name of `manifests.streams.kinds`."""
        ...

    @property
    def threshold(self) -> float:
        """Minimum target probability of a present class."""
        ...

    @property
    def pitch_bins(self) -> PitchBins:
        """The grid of a pitch stream."""
        ...


def _no_details(
    output_ND: np.ndarray, target_ND: np.ndarray, stream: MeasuredStream
) -> dict[str, float]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingKind:
    """Loss, metric, baseline and read-out of one kind of stream."""

    loss: Callable[[Tensor, Tensor], Tensor]
    """(output_BND of a head, target_BND) -> parts_PBN."""
    counts: Callable[[Tensor, Tensor], Tensor] = losses.frame_counts
    """(target_BND, covered_BN) -> counts_P: the number of frames over which each part is
    averaged."""
    metric: Callable[[np.ndarray, np.ndarray, MeasuredStream], float]
    """(output_ND of a head, target_ND, stream) -> its score in [0, 1]."""
    details: Callable[[np.ndarray, np.ndarray, MeasuredStream], dict[str, float]] = _no_details
    """Further common metrics, from the same arguments."""
    constant_output: Callable[[np.ndarray], np.ndarray]
    """mean_D of the targets -> output_D of a head that always predicts it: the baseline to beat."""
    to_target_units: Callable[[np.ndarray], np.ndarray]
    """output_ND of a head -> its prediction in the units and columns of the targets."""


def stream_counts(kind: str, target_BND: Tensor, covered_BN: Tensor) -> Tensor:
    """Returns counts_P: the frames over which each part of a stream's loss is averaged."""
    return TRAINING_KINDS[kind].counts(target_BND, covered_BN)


def stream_sums(kind: str, output_BND: Tensor, target_BND: Tensor, covered_BN: Tensor) -> Tensor:
    """Computes sums_P: a stream's loss, summed over the frames with targets.

    Args:
        kind: Kind of the stream.
        output_BND: Output of the head: features, or logits.
        target_BND: Targets of the teacher; standardised for features, probabilities otherwise.
        covered_BN: Whether each frame has a target.
    """
    parts_PBN = TRAINING_KINDS[kind].loss(output_BND.float(), target_BND)
    return (parts_PBN * covered_BN).sum((1, 2))


def stream_metric(stream: MeasuredStream, output_ND: np.ndarray, target_ND: np.ndarray) -> float:
    """The metric of a stream's kind; NaN if it is undefined.

    Args:
        stream: The stream's kind, threshold of classes and pitch grid.
        output_ND: Output of the head: standardised features, or logits.
        target_ND: Standardised features, or probabilities.
    """
    if not len(target_ND):
        return float("nan")
    return TRAINING_KINDS[stream.kind].metric(output_ND, target_ND, stream)


def stream_details(
    stream: MeasuredStream, output_ND: np.ndarray, target_ND: np.ndarray
) -> dict[str, float]:
    """Metrics in addition to `stream_metric`: frame F1, voicing recall and false alarms."""
    return TRAINING_KINDS[stream.kind].details(output_ND, target_ND, stream)


def constant_output(kind: str, mean_D: np.ndarray) -> np.ndarray:
    """Returns output_D of a head that always predicts this mean target: the baseline."""
    return TRAINING_KINDS[kind].constant_output(mean_D)


def to_target_units(kind: str, output_ND: np.ndarray) -> np.ndarray:
    """Converts the output of a head to the units of its targets: probabilities instead of logits.

    The salience of a pitch stream is scaled by the voicing, as in the cache.
    """
    return TRAINING_KINDS[kind].to_target_units(output_ND)


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


def _log(mean_D: np.ndarray) -> np.ndarray:
    return np.log(mean_D.clip(1e-6, 1 - 1e-6))


def _logit(mean_D: np.ndarray) -> np.ndarray:
    clipped_D = mean_D.clip(1e-6, 1 - 1e-6)
    return np.log(clipped_D / (1 - clipped_D))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.clip(-60, 60)))


def _softmax(values_ND: np.ndarray) -> np.ndarray:
    powers_ND = np.exp(values_ND - values_ND.max(1, keepdims=True))
    return powers_ND / powers_ND.sum(1, keepdims=True)


def _pitch_in_target_units(output_ND: np.ndarray) -> np.ndarray:
    voicing_N1 = _sigmoid(output_ND[:, -1:])
    salience_ND = _softmax(output_ND[:, :-1])
    peak_N1 = salience_ND.max(1, keepdims=True)
    return np.concatenate([salience_ND / peak_N1 * voicing_N1, voicing_N1], 1)


TRAINING_KINDS: dict[str, TrainingKind] = {
    "features": TrainingKind(
        loss=losses.features_loss,
        metric=lambda output_ND, target_ND, stream: metrics.cosine(output_ND, target_ND),
        constant_output=_unchanged,
        to_target_units=_unchanged,
    ),
    "multilabel": TrainingKind(
        loss=losses.multilabel_loss,
        metric=lambda output_ND, target_ND, stream: metrics.mean_average_precision(
            output_ND, target_ND >= stream.threshold
        ),
        details=lambda output_ND, target_ND, stream: metrics.frame_f1(
            output_ND, target_ND, stream.threshold
        ),
        constant_output=_logit,
        to_target_units=_sigmoid,
    ),
    "distribution": TrainingKind(
        loss=losses.distribution_loss,
        metric=lambda output_ND, target_ND, stream: metrics.accuracy(output_ND, target_ND),
        constant_output=_log,
        to_target_units=_softmax,
    ),
    "pitch": TrainingKind(
        loss=losses.pitch_loss,
        counts=losses.pitch_counts,
        metric=lambda output_ND, target_ND, stream: metrics.raw_pitch_accuracy(
            output_ND, target_ND, stream.pitch_bins
        ),
        details=lambda output_ND, target_ND, stream: metrics.voicing_rates(output_ND, target_ND),
        constant_output=_log,
        to_target_units=_pitch_in_target_units,
    ),
}
"""Kind -> its record, for every kind of `manifests.streams.kinds` that can be a training target."""
