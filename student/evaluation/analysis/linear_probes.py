"""Linear probes: what can be read, and how well, from the states of one layer and position group.

Closed form, so that nothing is trained and nothing depends on a learning rate: ridge regression,
its penalty chosen on a quarter of the training clips. For a label the targets are the classes,
coded -1 and 1, and the prediction is the largest output (a least-squares classifier). Probes are
fitted on some clips and scored on others; a probe of any state reads something, so what counts is
the difference between arms, layers and groups, and each score's distance from its floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Legend: N rows (clips, or clips by positions), H width, D targets.

PENALTIES = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
"""Times the mean variance of the standardised states, which is 1."""


@dataclass(frozen=True)
class Ridge:
    """A linear map of standardised states."""

    mean_H: np.ndarray
    scale_H: np.ndarray
    weight_HD: np.ndarray
    bias_D: np.ndarray

    def __call__(self, states_NH: np.ndarray) -> np.ndarray:
        """predicted_ND."""
        return (states_NH - self.mean_H) / self.scale_H @ self.weight_HD + self.bias_D


def fit_ridge(states_NH: np.ndarray, target_ND: np.ndarray, penalty: float) -> Ridge:
    """argmin over W of |X W - Y|^2 + penalty * |W|^2, X standardised and Y centred."""
    mean_H, scale_H = states_NH.mean(0), states_NH.std(0).clip(1e-6)
    bias_D = target_ND.mean(0)
    standard_NH = (states_NH - mean_H) / scale_H
    gram_HH = standard_NH.T @ standard_NH + penalty * np.eye(states_NH.shape[1])
    weight_HD = np.linalg.solve(gram_HH, standard_NH.T @ (target_ND - bias_D))
    return Ridge(mean_H, scale_H, weight_HD, bias_D)


def choose_ridge(states_NH: np.ndarray, target_ND: np.ndarray, groups_N: np.ndarray) -> Ridge:
    """The penalty that is best on every fourth clip, then a fit on all.

    Args:
        states_NH: Rows of states.
        target_ND: What they shall say.
        groups_N: Clip of each row: rows of one clip are never on both sides.
    """
    checking_N = groups_N % 4 == 3
    learning_N = ~checking_N

    def error(penalty: float) -> float:
        ridge = fit_ridge(states_NH[learning_N], target_ND[learning_N], penalty)
        return float(((ridge(states_NH[checking_N]) - target_ND[checking_N]) ** 2).mean())

    return fit_ridge(states_NH, target_ND, min(PENALTIES, key=error))


def explained(predicted_ND: np.ndarray, target_ND: np.ndarray, baseline_D: np.ndarray) -> float:
    """R^2 over all columns: the share of the variance around the training mean that is explained;
    0 is what the mean itself gives."""
    residual = ((predicted_ND - target_ND) ** 2).sum()
    total = ((target_ND - baseline_D) ** 2).sum()
    return float(1 - residual / max(total, 1e-12))


def coded(labels: list[str], classes: list[str]) -> np.ndarray:
    """Labels as rows of -1, and 1 at their class."""
    return np.array([[1.0 if label == name else -1.0 for name in classes] for label in labels])
