"""Histograms that are filled clip by clip, with edges at round numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class Histogram:
    """Counts of values between edges; values beyond them are counted in the outer bins.

    Args:
        edges: Increasing edges, one more than there are bins.
        log: Whether the axis is logarithmic (octaves).
    """

    def __init__(self, edges: np.ndarray, *, log: bool = False) -> None:
        self.edges = edges
        self.log = log
        self.counts = np.zeros(len(edges) - 1, np.int64)
        self.beyond = False

    @classmethod
    def nice(cls, low: float, high: float, bins: int = 40) -> Histogram:
        """Edges at multiples of 1, 2 or 5 times a power of ten, about `bins` of them."""
        step = nice_step(max(high - low, 1e-9) / bins)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(np.arange(first, max(last, first + 1) + 1) * step)

    def add(self, values: np.ndarray | list[float]) -> None:
        """Adds values."""
        values = np.asarray(values, np.float64)
        self.beyond |= bool((values > self.edges[-1]).any())
        inside = values.clip(self.edges[0], self.edges[-1])
        self.counts += np.histogram(inside, self.edges)[0]

    def to_json(self, *, trim: bool = False) -> dict[str, Any]:
        """The fields for the page; `trim` omits the empty bins at both ends.

        `beyond` states that the last bin also has values above its upper edge.
        """
        filled = np.flatnonzero(self.counts)
        first, last = (filled[0], filled[-1]) if trim and len(filled) else (0, len(self.counts) - 1)
        return {
            "edges": [float(f"{edge:.6g}") for edge in self.edges[first : last + 2]],
            "counts": self.counts[first : last + 1].tolist(),
            "log": self.log,
            "beyond": self.beyond,
        }


def nice_step(step: float) -> float:
    """The next larger 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)
