"""Targets of probes: labels of clips and frames of streams, and the probes' scores."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from student.distill.streams import Stream
from student.evaluation.analysis.linear_probes import coded, explained, fit_ridges
from student.evaluation.questions import Question

# Legend: C clips, K positions, N rows, H width, D target columns.

MAX_COLUMNS = 64
"""Maximum number of columns; of wider streams, those with the largest variance are probed."""
MIN_CLIPS = 8


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target of the probes."""

    metric: str
    """`accuracy` of a label, `R2` of a stream."""
    floor: float
    """Score of a constant on the clips for scoring: the most common label, or the mean, of those
    for fitting."""
    num_scored: int
    """Number of clips for scoring that have the target."""
    known_C: np.ndarray
    """Whether each clip has the target."""
    values: np.ndarray
    """Labels, or frames_CKD, of the clips that have the target."""

    @property
    def digest(self) -> str:
        """A hash of the clips that have it and of its values."""
        state = hashlib.blake2b(self.known_C.tobytes(), digest_size=8)
        state.update(np.ascontiguousarray(self.values).tobytes())
        return state.hexdigest()


def label_targets(
    labels: Mapping[str, Sequence[str | None]], testing_C: np.ndarray
) -> dict[str, Target]:
    """Task -> the clips' labels.

    Args:
        labels: Task -> the label of each clip, or None.
        testing_C: Whether each clip is for scoring; the others are for fitting.
    """
    targets = {}
    for task, values in labels.items():
        known_C = np.array([value is not None for value in values])
        known = np.array([value for value in values if value is not None])
        scored, fitted = known[testing_C[known_C]], known[~testing_C[known_C]]
        floor = 0.0
        if len(scored) and len(fitted):
            names, counts = np.unique(fitted, return_counts=True)
            floor = round(float((scored == names[counts.argmax()]).mean()), 4)
        targets[task] = Target(
            metric="accuracy", floor=floor, num_scored=len(scored), known_C=known_C, values=known
        )
    return targets


def stream_targets(
    streams: Mapping[str, Stream],
    clips: Sequence[Question],
    spans: int,
    testing_C: np.ndarray,
) -> dict[str, Target]:
    """Stream -> the clips' frames on as many time spans as positions."""
    targets = {}
    for name, stream in streams.items():
        ids = [clip.clip.clip_id for clip in clips]
        known_C = np.array([stream.covers(clip_id) for clip_id in ids])
        if known_C.sum() < MIN_CLIPS:
            continue
        frames_CKD = np.stack(
            [stream.frames(ids[place], spans) for place in np.flatnonzero(known_C)]
        )
        varied = np.sort(
            np.argsort(-frames_CKD.reshape(-1, frames_CKD.shape[-1]).var(0))[:MAX_COLUMNS]
        )
        targets[name] = Target(
            metric="R2",
            floor=0.0,
            num_scored=int((known_C & testing_C).sum()),
            known_C=known_C,
            values=frames_CKD[..., varied],
        )
    return targets


def score(
    values_CKH: np.ndarray,
    targets: Mapping[str, Target],
    testing_C: np.ndarray,
    group_C: np.ndarray,
) -> dict[str, float]:
    """Fits probes on the training clips, and scores each target on the testing clips.

    Targets with the same clips and rows share their Gram matrix.
    """
    batches: dict[tuple[bool, bytes], list[str]] = defaultdict(list)
    for name, target in targets.items():
        per_frame = target.metric == "R2" and values_CKH.shape[1] > 1
        batches[per_frame, target.known_C.tobytes()].append(name)
    scores: dict[str, float] = {}
    for (per_frame, _), names in batches.items():
        known_C = targets[names[0]].known_C
        states_CKH, testing, group = values_CKH[known_C], testing_C[known_C], group_C[known_C]
        repeats = states_CKH.shape[1] if per_frame else 1
        if not per_frame:
            states_CKH = states_CKH.mean(1, keepdims=True, dtype=np.float32)
        states_NH = states_CKH.reshape(-1, states_CKH.shape[-1])
        expected = [_target_rows(targets[name], per_frame) for name in names]
        testing_N = np.repeat(testing, repeats)
        learning_N = ~testing_N
        order = np.unique(np.repeat(group, repeats)[learning_N], return_inverse=True)[1]
        if not testing.any() or len(np.unique(order)) < 4:
            scores |= dict.fromkeys(names, 0.0)
            continue
        ridges = fit_ridges(states_NH[learning_N], [w[learning_N] for w in expected], order)
        for name, ridge, wanted_ND in zip(names, ridges, expected, strict=True):
            predicted_ND, truth_ND = ridge(states_NH[testing_N]), wanted_ND[testing_N]
            if targets[name].metric == "accuracy":
                scores[name] = float((predicted_ND.argmax(1) == truth_ND.argmax(1)).mean())
            else:
                scores[name] = explained(predicted_ND, truth_ND, wanted_ND[learning_N].mean(0))
    return scores


def _target_rows(target: Target, per_frame: bool) -> np.ndarray:
    """The target of each row, target_ND."""
    if target.metric == "accuracy":
        labels = [str(label) for label in target.values]
        return coded(labels, sorted(set(labels)))
    values_CKD = target.values if per_frame else target.values.mean(1, keepdims=True)
    return values_CKD.reshape(-1, values_CKD.shape[-1]).astype(np.float64)
