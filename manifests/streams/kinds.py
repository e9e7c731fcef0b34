"""One record per stream kind: the meaning of a stream's numbers, for numpy code.

The student's part of a kind (loss, metric, baseline, read-out) is in the record of the same name in
`student.distill.kinds`. No other code compares a kind's name: it reads fields of the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

# Legend: T frames, D columns.

VOICED = 0.5
"""Minimum voicing probability of a frame with a pitch."""

Appearance = Literal["curves", "deviations", "probabilities"]
"""Ways to draw values: lines in their own unit, standard deviations around a mean, or [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamKind:
    """The meaning of a stream's numbers."""

    name: str
    meaning: str
    """One phrase for tables and help texts."""
    metric_name: str = ""
    """Name of a head's score on held-out clips; empty for a kind that cannot be a training
    target."""
    target_unit: str = "probability"
    """Unit of training targets and of a head's predictions once they are read out."""
    appearance: Appearance = "probabilities"
    has_classes: bool = False
    """Whether named columns are classes, each with its own probability."""
    is_standardised: bool = False
    """Whether training targets have zero mean and unit deviation per column over the cache."""
    is_physical: bool = False
    """Whether errors are compared with each column's own deviation; otherwise columns share the
    scale of probabilities."""
    smallest_spread: float = 0.01
    """Least deviation of a column when the loss of a codec is judged, as a share of the column's
    RMS value. Used for physical kinds, in which a constant column has almost no deviation."""
    has_pitch_bins: bool = False
    """Whether all columns but the last are bins of a pitch grid, and the last is voicing."""
    valid_frames: Callable[[np.ndarray], np.ndarray] | None = None
    """frames_TD -> valid_T: frames in which `masked_columns` are targets; None means all frames."""
    masked_columns: slice = field(default_factory=lambda: slice(None))
    """The columns to which `valid_frames` applies; other columns are targets in every frame."""

    @property
    def is_trainable(self) -> bool:
        """Whether a student can learn streams of this kind."""
        return bool(self.metric_name)

    def drawn(self, frames_TD: np.ndarray) -> np.ndarray:
        """Returns the columns that are drawn: all but the voicing of a pitch stream."""
        return frames_TD[:, :-1] if self.has_pitch_bins else frames_TD

    def validity(self, frames_TD: np.ndarray) -> np.ndarray:
        """Returns valid_TD, boolean: which values are targets."""
        valid_TD = np.ones(frames_TD.shape, bool)
        if self.valid_frames is not None:
            valid_TD[:, self.masked_columns] = self.valid_frames(frames_TD)[:, None]
        return valid_TD


def _voiced_frames(frames_TD: np.ndarray) -> np.ndarray:
    return frames_TD[:, -1] >= VOICED


KINDS: dict[str, StreamKind] = {
    kind.name: kind
    for kind in (
        StreamKind(
            name="features",
            meaning="real-valued vectors",
            metric_name="cosine",
            target_unit="standard deviations from the cache's mean",
            appearance="deviations",
            is_standardised=True,
            is_physical=True,
        ),
        StreamKind(
            name="multilabel",
            meaning="independent probabilities of classes",
            metric_name="mAP",
            has_classes=True,
        ),
        StreamKind(
            name="distribution",
            meaning="probabilities of classes that sum to 1",
            metric_name="accuracy",
            has_classes=True,
        ),
        StreamKind(
            name="pitch",
            meaning="salience over pitch bins, then voicing probability as the last column",
            metric_name="raw pitch accuracy",
            has_pitch_bins=True,
            valid_frames=_voiced_frames,
            masked_columns=slice(0, -1),
        ),
        StreamKind(
            name="curve",
            meaning="physical values for readers and reports, not a training target",
            target_unit="",
            appearance="curves",
            is_physical=True,
            smallest_spread=0.05,
        ),
    )
}
"""Kind -> its record. `StreamSpec.kind` is one of these names."""
