"""The type of a stream's score: the metrics of a head and of the mean prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from student.distill.kinds import MeasuredStream, constant_output, stream_details, stream_metric

# Legend: N frames, D columns.


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamScore:
    """The score of a head on a stream, over some clips."""

    metric: float
    """The metric of the stream's kind, in [0, 1], higher is better; NaN without targets."""
    mean_predictor: float
    """The same metric for a head that predicts the mean target in every frame."""
    loss: float = float("nan")
    """The training loss, if it was measured."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Further metrics of the kind: frame F1, voicing recall and false alarms."""

    @classmethod
    def from_frames(
        cls,
        stream: MeasuredStream,
        output_ND: np.ndarray,
        target_ND: np.ndarray,
        *,
        mean_D: np.ndarray,
        loss: float = float("nan"),
    ) -> StreamScore:
        """Scores the frames of a head.

        Args:
            stream: The stream's kind, threshold of classes and pitch grid.
            output_ND: The head's output: standardised features, or logits.
            target_ND: Standardised features, or probabilities.
            mean_D: The mean target, which the baseline predicts.
            loss: The training loss on the same frames.
        """
        constant_ND = np.broadcast_to(constant_output(stream.kind, mean_D), target_ND.shape)
        return cls(
            metric=stream_metric(stream, output_ND, target_ND),
            mean_predictor=stream_metric(stream, constant_ND, target_ND),
            loss=loss,
            details=stream_details(stream, output_ND, target_ND),
        )

    @classmethod
    def from_numbers(cls, name: str, numbers: Mapping[str, float]) -> StreamScore | None:
        """The score of stream `name` in a run's report; None if the report lacks the stream."""
        if f"{name}/metric" not in numbers:
            return None
        return cls(
            metric=numbers[f"{name}/metric"],
            mean_predictor=numbers[f"{name}/mean_predictor"],
            loss=numbers.get(f"{name}/loss", float("nan")),
        )

    def to_numbers(self, name: str) -> dict[str, float]:
        """The entries of stream `name` in a run's report."""
        return {
            f"{name}/loss": self.loss,
            f"{name}/metric": self.metric,
            f"{name}/mean_predictor": self.mean_predictor,
        }
