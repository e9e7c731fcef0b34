"""Draws the tracks of a clip with matplotlib, for use outside of HTML pages.

`coat-cache show` saves it as a PNG, the evaluation saves predicted beside cached frames, and the
demo shows what the heads predict as SVG. `manifests.page.tracks` decides what is drawn of a stream,
for pages and figures alike. matplotlib is not a dependency of this package: only callers that draw
import this file.
"""

from __future__ import annotations

import io
from base64 import b64decode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.audio import Waveform, resample
from manifests.page import sound
from manifests.page.tracks import PITCH_TICKS_HZ, Track
from manifests.streams.kinds import VOICED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Legend: T frames, C columns in time, R rows.

WIDTH = 9.0
"""Inches."""
ROW_HEIGHT = 0.2
"""Height of a named row in inches."""
INK, QUIET = "#3b5bdb", "#80868f"
"""Colours that are readable on light and dark backgrounds."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "text.color": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}
COLOUR_MAPS = {"heat": "Blues", "diverging": "RdBu_r"}


def draw_tracks(
    tracks: Sequence[Track],
    *,
    seconds: float,
    title: str = "",
    wave: Waveform | None = None,
    spectrogram: bool = True,
) -> Figure:
    """A figure with one panel per track over one time axis.

    Args:
        tracks: Tracks of one clip.
        seconds: End of the time axis.
        title: Text above the figure.
        wave: The clip's audio, drawn above the tracks.
        spectrogram: Whether the audio's spectrogram is drawn below its waveform.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels: list[tuple[str, float, Any]] = []
    if wave is not None:
        samples = resample(wave, sound.PLAY_RATE)
        panels.append(("recording", 0.8, lambda axes: _waveform(axes, samples, seconds)))
        if spectrogram:
            picture = sound.spectrogram(samples)
            panels.append(("spectrogram", 1.3, lambda axes: _heat(axes, picture)))
    for track in tracks:
        draw = DRAW[track.kind]
        heading = f"{track.source}: {track.title}" if track.source else track.title
        heading += f", {track.data['note']}" if track.data.get("note") else ""
        panels.append((heading, _height(track), lambda axes, t=track, d=draw: d(axes, t.data)))
    heights = [height for _, height, _ in panels]
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH, sum(heights) + 0.42 * len(heights) + 0.5), layout="constrained"
        )
        rows = figure.subplots(
            len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for axes, (heading, _, draw) in zip(rows, panels, strict=True):
            axes.set_title(heading, loc="left", fontsize=9, color=INK)
            draw(axes)
        rows[-1].set_xlabel("seconds")
        rows[-1].set_xlim(0, seconds)
        if title:
            figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def to_svg(figure: Figure) -> str:
    """Converts a figure to an SVG element, keeping texts as text."""
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]


def _height(track: Track) -> float:
    data = track.data
    if track.kind == "words":
        return 0.45
    if track.kind == "curves":
        return 0.45 * len(data["curves"])
    if track.kind == "heat":
        return 0.2 + ROW_HEIGHT * data["rows"] if "names" in data else 1.4
    return 1.5


def _unpacked(text: str, dtype: type = np.uint8) -> np.ndarray:
    return np.frombuffer(b64decode(text), dtype)


def _times(data: dict[str, Any], count: int) -> np.ndarray:
    return data["start"] + data["hop"] * np.arange(count)


def _edges(data: dict[str, Any], count: int) -> np.ndarray:
    """The start of every frame, and the end of the last one."""
    return data["start"] + data["hop"] * (np.arange(count + 1) - 0.5)


def _waveform(axes: Axes, samples: np.ndarray, seconds: float) -> None:
    levels = _unpacked(sound.peaks(samples)["values"], np.int8).reshape(-1, 2)
    times_C = np.linspace(0, len(samples) / sound.PLAY_RATE, len(levels))
    axes.fill_between(times_C, levels[:, 0], levels[:, 1], color=QUIET, linewidth=0)
    axes.set_yticks([])


def _heat(axes: Axes, data: dict[str, Any]) -> None:
    columns, rows = data["columns"], data["rows"]
    values_CR = _unpacked(data["values"]).reshape(columns, rows)
    edges = _edges(data, columns)
    named = data.get("names")
    # Named rows are ordered from the top, others from the bottom.
    axes.imshow(
        values_CR.T,
        aspect="auto",
        interpolation="nearest",
        vmin=0,
        vmax=255,
        cmap=COLOUR_MAPS[data["scale"]],
        origin="upper" if named else "lower",
        extent=(edges[0], edges[-1], 1, 0) if named else (edges[0], edges[-1], 0, 1),
    )
    ticks = [(label, height) for label, height in data.get("ticks", ())]
    if named:
        ticks = [(name, (row + 0.5) / rows) for row, name in enumerate(named)]
    if "lowest_key" in data:
        keys = range(data["lowest_key"], data["lowest_key"] + rows)
        ticks = [(f"C{key // 12 - 1}", (row + 0.5) / rows) for row, key in enumerate(keys)
                 if key % 12 == 0]  # fmt: skip
    labels = [f"{label} Hz" if isinstance(label, int) else label for label, _ in ticks]
    axes.set_yticks([height for _, height in ticks], labels, fontsize=8)
    axes.tick_params(axis="y", length=0)


def _pitch(axes: Axes, data: dict[str, Any]) -> None:
    """Draws the frequency of voiced frames in Hz on a logarithmic axis."""
    hertz_T = np.array(data["f0"], float)
    is_voiced_T = (_unpacked(data["voicing"]) > VOICED * 255) & (hertz_T > 0)
    hertz_T = np.where(is_voiced_T, hertz_T, np.nan)
    edges = _edges(data, len(hertz_T))
    line = axes.stairs(hertz_T, edges, baseline=None, color=INK, linewidth=2)
    line.set_gid("pitch")
    shown = hertz_T[is_voiced_T]
    low, high = (shown.min() / 1.2, shown.max() * 1.2) if len(shown) else (50.0, 2000.0)
    while high < 4 * low:  # at least two octaves, so that two ticks are visible
        low, high = low / 1.2, high * 1.2
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = [hertz for hertz in PITCH_TICKS_HZ if low < hertz < high]
    axes.set_yticks(ticks, [f"{hertz} Hz" for hertz in ticks], fontsize=8)
    axes.minorticks_off()


def _curves(axes: Axes, data: dict[str, Any]) -> None:
    """Draws each curve in a lane of its own, the first at the top."""
    curves = data["curves"]
    for lane, curve in enumerate(curves):
        levels_T = _unpacked(curve["values"]) / 255 * 0.85
        edges = _edges(data, len(levels_T))
        # From edge to edge, so that a single frame is a line, too.
        times_T = np.concatenate([edges[:1], _times(data, len(levels_T)), edges[-1:]])
        levels_T = np.pad(levels_T, 1, mode="edge")
        axes.plot(times_T, len(curves) - 1 - lane + levels_T, color=INK, linewidth=1)
    lanes = np.arange(len(curves))[::-1] + 0.4
    labels = [f"{curve['name']}\n{curve['low']:.3g} to {curve['high']:.3g}" for curve in curves]
    axes.set_yticks(lanes, labels, fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(0, len(curves))


def _words(axes: Axes, data: dict[str, Any]) -> None:
    """Draws each word from its start to its end, with texts in two rows to separate neighbours."""
    words = data["words"]
    for place, word in enumerate(words):
        height = place % 2
        axes.plot(
            [word["start_s"], word["end_s"]], [height, height], color=INK, linewidth=3,
            solid_capstyle="butt",
        )  # fmt: skip
        axes.text(word["start_s"], height + 0.2, word["text"], fontsize=8, clip_on=True)
    axes.set_ylim(-0.3, 2)
    axes.set_yticks([])


def _notes(axes: Axes, data: dict[str, Any]) -> None:
    notes = data["notes"]
    for note in notes:
        width = note["end_s"] - note["start_s"]
        axes.barh(
            note["midi"], width, left=note["start_s"], height=0.8, color=INK,
            alpha=0.35 + 0.65 * min(1.0, note["strength"]),
        )  # fmt: skip
    keys = [note["midi"] for note in notes] or [60]
    low, high = min(keys) - 6, max(keys) + 6
    axes.set_ylim(low, high)
    octaves = [key for key in range(low, high) if key % 12 == 0]
    axes.set_yticks(octaves, [f"C{key // 12 - 1}" for key in octaves], fontsize=8)


DRAW = {"words": _words, "notes": _notes, "pitch": _pitch, "curves": _curves, "heat": _heat}
"""Kind of a track -> the function that draws its data."""
