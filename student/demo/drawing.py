"""Readings as one picture over the recording's time: SVG, so names stay text and lines sharp."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from manifests.streams.kinds import KINDS
from student.inference.head_outputs import Reading

# Legend: N frames over equal spans of the recording, D columns, R rows shown.

ROWS = 8
"""Most rows of a panel: the classes that reach highest, the descriptors that move most."""
INK, PALE = "#3b5bdb", "#8a8f98"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALE,
    "text.color": PALE,
    "axes.labelcolor": PALE,
    "xtick.color": PALE,
    "ytick.color": PALE,
}
"""Grey that can be read on light and on dark pages."""
ORDER = {"pitch": 0, "multilabel": 1, "distribution": 2, "features": 3}


def draw(wave: np.ndarray, sample_rate: int, readings: Sequence[Reading]) -> str:
    """An SVG element: the waveform, and below it a panel for each reading that can be shown.

    Features whose columns have no names are left out: hundreds of numbers say nothing to the eye.
    """
    shown = sorted(
        (one for one in readings if KINDS[one.kind].has_pitch_bins or one.names),
        key=lambda one: ORDER.get(one.kind, len(ORDER)),
    )
    seconds = len(wave) / sample_rate
    heights = [1.0, *map(_panel_height, shown)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, sum(heights) + 0.45 * len(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False,
                                 gridspec_kw={"height_ratios": heights})[:, 0]  # fmt: skip
        _waveform(panels[0], wave, seconds)
        for panel, reading in zip(panels[1:], shown, strict=True):
            panel.set_title(_title(reading), loc="left", fontsize=9, color=INK)
            if KINDS[reading.kind].has_pitch_bins:
                _pitch(panel, reading, seconds)
            else:
                _rows(panel, reading, seconds)
        panels[-1].set_xlabel("seconds")
        panels[-1].set_xlim(0, seconds)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]


def rows(reading: Reading) -> int:
    """How many rows its panel has."""
    return min(ROWS, reading.values_ND.shape[1])


def _panel_height(reading: Reading) -> float:
    return 2.0 if KINDS[reading.kind].has_pitch_bins else 0.4 + 0.26 * rows(reading)


def chosen(reading: Reading) -> list[int]:
    """Columns that are shown, the most telling first."""
    values_ND = reading.values_ND
    telling_D = np.ptp(values_ND, axis=0) if _deviates(reading) else values_ND.max(0)
    return np.argsort(-telling_D, kind="stable")[: rows(reading)].tolist()


def _title(reading: Reading) -> str:
    kind = KINDS[reading.kind]
    return f"{reading.stream} ({'Hz' if kind.has_pitch_bins else kind.target_unit})"


def _deviates(reading: Reading) -> bool:
    return KINDS[reading.kind].appearance == "deviations"


def _waveform(panel: Axes, wave: np.ndarray, seconds: float) -> None:
    """Peaks of some hundred spans: a recording has more samples than a screen has pixels."""
    spans = np.array_split(wave, min(len(wave), 600))
    times = (np.arange(len(spans)) + 0.5) * seconds / len(spans)
    panel.fill_between(times, [span.min() for span in spans], [span.max() for span in spans],
                       color=PALE, linewidth=0)  # fmt: skip
    panel.set_yticks([])
    panel.set_title("recording", loc="left", fontsize=9, color=INK)


def _pitch(panel: Axes, reading: Reading, seconds: float) -> None:
    hertz_N = reading.pitch_track
    edges = np.linspace(0, seconds, len(hertz_N) + 1)
    line = panel.stairs(hertz_N, edges, baseline=None, color=INK, linewidth=2)
    line.set_gid(f"pitch:{reading.stream}")
    panel.set_yscale("log")
    panel.set_ylim(50, 2000)
    panel.set_yticks([50, 100, 200, 400, 800, 1600], ["50", "100", "200", "400", "800", "1600"])
    panel.minorticks_off()


def _rows(panel: Axes, reading: Reading, seconds: float) -> None:
    columns = chosen(reading)
    values_RN = reading.values_ND[:, columns].T
    features = _deviates(reading)
    low, high = (-2.0, 2.0) if features else (0.0, 1.0)
    panel.imshow(
        values_RN,
        aspect="auto",
        interpolation="nearest",
        vmin=low,
        vmax=high,
        cmap="RdBu_r" if features else "Blues",
        extent=(0, seconds, len(columns), 0),
    )
    peak = "" if features else "  {:.2f}"
    labels = [
        reading.names[column] + peak.format(reading.values_ND[:, column].max())
        for column in columns
    ]
    panel.set_yticks(np.arange(len(columns)) + 0.5, labels)
    panel.tick_params(axis="y", length=0)
