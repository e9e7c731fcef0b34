"""Converts a stream of a clip to tracks, which pages and figures draw over the clip's time axis.

A track consists of JSON fields, with arrays as bytes in base64. Frame i of a stream covers the time
from `start + (i - 1/2) * hop` to `start + (i + 1/2) * hop`; pooling keeps that true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from manifests.cache.stream_sums import Statistics
from manifests.page import track_kinds
from manifests.page.sound import COLUMNS, packed
from manifests.streams.kinds import KINDS
from manifests.streams.specs import StreamSpec

# Legend: T frames, D columns of a stream, R rows of a picture.

MOST_CLASSES = 8
"""Number of most probable classes of a clip that are drawn as rows."""
MOST_ROWS = 48
"""Maximum number of rows of a picture whose rows have no names."""
SIGMAS = 3.0
"""Standard deviations at which a picture of features saturates."""
SPARE_KEYS = 3
"""Number of keys shown above and below the sounding ones."""
PITCH_TICKS_HZ = (50, 100, 200, 400, 800, 1600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One thing to draw."""

    kind: str
    """Kind of drawing: words, notes, pitch, curves or heat."""
    title: str
    source: str
    """TEACHER or TEACHER.STREAM."""
    more: bool = False
    """Whether a page shows it only on demand."""
    data: dict[str, Any]
    """The fields that `drawing.js` and `manifests.page.figure` read for the kind."""


def stream_tracks(
    key: str,
    spec: StreamSpec,
    frames_TD: np.ndarray,
    overall: Statistics,
    *,
    like_TD: np.ndarray | None = None,
) -> list[Track]:
    """The tracks of a stream.

    Args:
        key: TEACHER.STREAM.
        spec: The meaning of the frames, and their time grid.
        frames_TD: The frames of one clip.
        overall: Mean and deviation of the stream over the whole cache.
        like_TD: Frames that determine rows and scales instead of the clip's own, so that two tracks
            can be compared.
    """
    like_TD = frames_TD if like_TD is None else like_TD
    kind = KINDS[spec.kind]
    name = spec.name
    if track_kinds.has_f0(spec):
        data = pitch_data(spec, frames_TD[:, 0], frames_TD[:, 1])
        return [Track(kind="pitch", title="pitch", source=key, data=data)]
    if kind.appearance == "curves":
        columns = list(range(min(spec.dim, track_kinds.MOST_CURVES)))
        data = _curves(spec, frames_TD, like_TD, overall, columns)
        return [Track(kind="curves", title=name, source=key, data=data)]
    if track_kinds.has_keys(spec):
        data = _keys(spec, frames_TD, like_TD)
        return [Track(kind="heat", title=f"{name}, posterior", source=key, data=data, more=True)]
    if track_kinds.has_classes(spec):
        data = _classes(spec, frames_TD, like_TD)
        return [Track(kind="heat", title=name, source=key, data=data)]
    if kind.appearance == "deviations":
        data = _features(spec, (frames_TD - overall.mean_D) / overall.std_D)
        title = f"{name}, standardised"
        picture = Track(kind="heat", title=title, source=key, data=data, more=True)
        columns = track_kinds.descriptors(spec)
        if not columns:
            return [picture]
        curves = _curves(spec, frames_TD, like_TD, overall, columns)
        return [Track(kind="curves", title="descriptors", source=key, data=curves), picture]
    data = _probabilities(spec, kind.drawn(frames_TD))
    return [Track(kind="heat", title=name, source=key, data=data, more=True)]


def pitch_data(spec: StreamSpec, hertz_T: np.ndarray, voicing_T: np.ndarray) -> dict[str, Any]:
    """The data of a track of the kind `pitch`: frequency in Hz, and voicing in [0, 1]."""
    return {
        "start": spec.start_s,
        "hop": spec.hop_s,
        "f0": [round(float(value), 1) for value in hertz_T],
        "voicing": packed(np.rint(voicing_T.clip(0, 1) * 255).astype(np.uint8)),
    }


def _curves(
    spec: StreamSpec,
    frames_TD: np.ndarray,
    like_TD: np.ndarray,
    overall: Statistics,
    columns: list[int],
) -> dict[str, Any]:
    """Columns as curves, on their scale over the whole cache, extended if the clip exceeds it."""
    names = spec.names or (
        [spec.name] if spec.dim == 1 else [f"{spec.name} {column}" for column in range(spec.dim)]
    )
    curves = []
    for column in columns:
        values_T = frames_TD[:, column]
        low, high = overall.mean_D[column] + np.array([-SIGMAS, SIGMAS]) * overall.std_D[column]
        both = np.concatenate([values_T, like_TD[:, column]])
        low, high = min(low, both.min()), max(high, both.max())
        if both.min() >= 0:
            low = max(low, 0.0)
        levels_T = ((values_T - low) / (high - low)).clip(0, 1)
        curves.append(
            {
                "name": track_kinds.short_name(names[column]),
                "low": float(low),
                "high": float(high),
                "values": packed(np.rint(levels_T * 255).astype(np.uint8)),
            }
        )
    return {"start": spec.start_s, "hop": spec.hop_s, "curves": curves}


def _classes(spec: StreamSpec, frames_TD: np.ndarray, like_TD: np.ndarray) -> dict[str, Any]:
    top = np.argsort(-like_TD.max(0), kind="stable")[:MOST_CLASSES]
    heat = _heat(spec, frames_TD[:, top], np.maximum.reduceat)
    return heat | {"names": [spec.names[column] for column in top]}


def _keys(spec: StreamSpec, frames_TD: np.ndarray, like_TD: np.ndarray) -> dict[str, Any]:
    """The sounding part of the keyboard."""
    sounding = np.flatnonzero(like_TD.max(0) >= 0.3)
    first, last = (sounding[0], sounding[-1]) if len(sounding) else (36, 48)
    first, last = max(0, first - SPARE_KEYS), min(spec.dim - 1, last + SPARE_KEYS)
    heat = _heat(spec, frames_TD[:, first : last + 1], np.maximum.reduceat)
    lowest = int(spec.names[first].removeprefix("midi "))
    return heat | {"lowest_key": lowest}


def _features(spec: StreamSpec, standard_TD: np.ndarray) -> dict[str, Any]:
    step = 1 if spec.names and spec.dim <= MOST_ROWS else -(-spec.dim // MOST_ROWS)
    shown_TR = (standard_TD[:, ::step] / SIGMAS).clip(-1, 1) / 2 + 0.5
    heat = _heat(spec, shown_TR, _mean_reduceat) | {"scale": "diverging"}
    if step == 1 and spec.names:
        return heat | {"names": [track_kinds.short_name(name) for name in spec.names]}
    return heat | {"note": f"{shown_TR.shape[1]} of {spec.dim} columns"}


def _probabilities(spec: StreamSpec, frames_TD: np.ndarray) -> dict[str, Any]:
    group = -(-frames_TD.shape[1] // MOST_ROWS)
    pooled_TR = np.maximum.reduceat(frames_TD, np.arange(0, frames_TD.shape[1], group), axis=1)
    heat = _heat(spec, pooled_TR, np.maximum.reduceat)
    if KINDS[spec.kind].has_pitch_bins:
        return heat | {"ticks": _pitch_ticks(spec, heights=pooled_TR.shape[1] * group)}
    note = {"note": f"{frames_TD.shape[1]} columns, the largest of each {group}"}
    return heat | (note if group > 1 else {})


def _pitch_ticks(spec: StreamSpec, *, heights: int) -> list[tuple[str, float]]:
    """Returns (label, height in [0, 1]) of the round frequencies that the bins cover."""
    bins = spec.pitch_bins
    places = [
        (hertz, (1200 * np.log2(hertz / bins.lowest_hz) / bins.cents_per_bin + 0.5) / heights)
        for hertz in PITCH_TICKS_HZ
    ]
    return [(f"{hertz} Hz", round(float(place), 4)) for hertz, place in places if 0 < place < 1]


def _heat(spec: StreamSpec, values_TR: np.ndarray, reduceat: Any) -> dict[str, Any]:
    """Values in [0, 1] as a picture of at most `COLUMNS` columns."""
    group = -(-len(values_TR) // COLUMNS)
    pooled = reduceat(values_TR, np.arange(0, len(values_TR), group), axis=0)
    return {
        "start": spec.start_s + (group - 1) / 2 * spec.hop_s,
        "hop": spec.hop_s * group,
        "columns": len(pooled),
        "rows": pooled.shape[1],
        "values": packed(np.rint(pooled.clip(0, 1) * 255).astype(np.uint8)),
        "scale": "heat",
    }


def _mean_reduceat(values: np.ndarray, starts: np.ndarray, axis: int) -> np.ndarray:
    sizes = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(values, starts, axis=axis) / sizes[:, None]
