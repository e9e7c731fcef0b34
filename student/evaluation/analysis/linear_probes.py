"""Linear probes of the states of one layer and position group.

Probes are ridge regressions in closed form, without a learning rate; the penalty is selected on a
quarter of the training clips. For labels, the targets are the classes, coded as -1 and 1, and the
prediction is the largest output (a least-squares classifier). Probes are fitted on some clips and
scored on others. A probe of any state predicts something, so only differences between arms, layers
and groups, and from each score's floor, are meaningful.

All targets of one layer and group share one Gram matrix, which is computed once and factorised once
per penalty. A single eigendecomposition would serve all penalties, too, but takes as long as ten
such factorisations and hardly uses more than one core. If there are fewer rows than columns, the
matrix of rows is factorised instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Legend: N rows (clips, or clips by positions), H width, D targets.

PENALTIES = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
"""Penalties as multiples of the mean variance of the standardised states, which is 1."""
CHUNK_ROWS = 4096
"""Number of rows that are converted to float64 at once."""


@dataclass(frozen=True)
class Ridge:
    """A linear map of standardised states."""

    mean_H: np.ndarray
    scale_H: np.ndarray
    weight_HD: np.ndarray
    bias_D: np.ndarray

    def __call__(self, states_NH: np.ndarray) -> np.ndarray:
        """Returns predicted_ND."""
        predicted = [
            (chunk.astype(np.float64) - self.mean_H) / self.scale_H @ self.weight_HD + self.bias_D
            for chunk in _chunks(states_NH)
        ]
        return np.concatenate(predicted)


class _Sums:
    """The number, sums and products of some rows, from which ridge regression is fitted."""

    def __init__(self, states_NH: np.ndarray) -> None:
        self.count, width = states_NH.shape
        self.sum_H, self.gram_HH = np.zeros(width), np.zeros((width, width))
        for chunk in _chunks(states_NH):
            rows = chunk.astype(np.float64)
            self.sum_H += rows.sum(0)
            self.gram_HH += rows.T @ rows

    def __add__(self, other: _Sums) -> _Sums:
        both = object.__new__(_Sums)
        both.count = self.count + other.count
        both.sum_H = self.sum_H + other.sum_H
        both.gram_HH = self.gram_HH + other.gram_HH
        return both


class _Problem:
    """Ridge regression on one set of rows, for any penalty."""

    def __init__(self, states_NH: np.ndarray, target_ND: np.ndarray, sums: _Sums | None) -> None:
        self._states_NH, self._sums = states_NH, sums
        self._bias_D = target_ND.mean(0)
        centred_ND = target_ND - self._bias_D
        if sums is None:
            rows = states_NH.astype(np.float64)
            self._mean_H, self._scale_H = rows.mean(0), rows.std(0).clip(1e-6)
            self._standard_NH = (rows - self._mean_H) / self._scale_H
            self._gram = self._standard_NH @ self._standard_NH.T
            self._right = centred_ND
            return
        self._mean_H = sums.sum_H / sums.count
        variance_H = np.diag(sums.gram_HH) / sums.count - self._mean_H**2
        self._scale_H = np.sqrt(variance_H.clip(0)).clip(1e-6)
        scales_HH = np.outer(self._scale_H, self._scale_H)
        self._gram = (sums.gram_HH - sums.count * np.outer(self._mean_H, self._mean_H)) / scales_HH
        products_HD = np.zeros((len(self._mean_H), target_ND.shape[1]))
        for rows, targets in zip(_chunks(states_NH), _chunks(centred_ND), strict=True):
            products_HD += (rows.astype(np.float64) - self._mean_H).T @ targets
        self._right = products_HD / self._scale_H[:, None]

    def solve(self, penalty: float) -> Ridge:
        """Minimises |X W - Y|^2 + penalty * |W|^2 over W, X standardised and Y centred."""
        regularised = self._gram + penalty * np.eye(len(self._gram))
        solution = np.linalg.solve(regularised, self._right)
        weight_HD = self._standard_NH.T @ solution if self._sums is None else solution
        return Ridge(self._mean_H, self._scale_H, weight_HD, self._bias_D)

    def squared_errors(self, states_NH: np.ndarray, target_ND: np.ndarray) -> np.ndarray:
        """The squared error of each penalty on other rows, by target column."""
        weights = [self.solve(penalty).weight_HD for penalty in PENALTIES]
        squared_PD = np.zeros((len(PENALTIES), target_ND.shape[1]))
        for chunk, target_chunk in zip(_chunks(states_NH), _chunks(target_ND), strict=True):
            rows = (chunk.astype(np.float64) - self._mean_H) / self._scale_H
            for squared_D, weight_HD in zip(squared_PD, weights, strict=True):
                squared_D += ((rows @ weight_HD + self._bias_D - target_chunk) ** 2).sum(0)
        return squared_PD


def fit_ridges(
    states_NH: np.ndarray, targets: Sequence[np.ndarray], groups_N: np.ndarray
) -> list[Ridge]:
    """Fits each target on all rows, with the penalty that is best on every fourth group.

    Args:
        states_NH: Rows of states, of any floating type. targets: For each target, its values for
            the rows, target_ND. groups_N: Number of the recording of each row: rows of one
            recording are always on the same side.
    """
    checking_N = groups_N % 4 == 3
    ends = np.cumsum([0, *(target_ND.shape[1] for target_ND in targets)])
    columns = [slice(start, end) for start, end in itertools.pairwise(ends)]
    target_ND = np.concatenate([np.asarray(target, np.float64) for target in targets], axis=1)
    learning = states_NH[~checking_N]
    checking = states_NH[checking_N]
    is_wide = len(learning) <= states_NH.shape[1]
    learning_sums = None if is_wide else _Sums(learning)
    problem = _Problem(learning, target_ND[~checking_N], learning_sums)
    squared_PD = problem.squared_errors(checking, target_ND[checking_N])
    errors = np.stack([squared_PD[:, place].sum(1) for place in columns], axis=1)
    best = errors.argmin(0)
    all_sums = None if learning_sums is None else learning_sums + _Sums(checking)
    order = np.concatenate([np.flatnonzero(~checking_N), np.flatnonzero(checking_N)])
    whole = _Problem(states_NH[order], target_ND[order], all_sums)
    fits = {number: whole.solve(PENALTIES[number]) for number in set(best.tolist())}
    return [
        Ridge(fit.mean_H, fit.scale_H, fit.weight_HD[:, place], fit.bias_D[place])
        for number, place in zip(best.tolist(), columns, strict=True)
        for fit in [fits[number]]
    ]


def explained(predicted_ND: np.ndarray, target_ND: np.ndarray, baseline_D: np.ndarray) -> float:
    """Computes R^2 over all columns: the explained share of the variance around the training
    mean; 0 for the mean itself."""
    residual = ((predicted_ND - target_ND) ** 2).sum()
    total = ((target_ND - baseline_D) ** 2).sum()
    return float(1 - residual / max(total, 1e-12))


def coded(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Encodes labels as rows of -1, with 1 at their class."""
    return np.array([[1.0 if label == name else -1.0 for name in classes] for label in labels])


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    """Yields chunks of rows; at least one, which may be empty."""
    return [rows[start : start + CHUNK_ROWS] for start in range(0, max(len(rows), 1), CHUNK_ROWS)]
