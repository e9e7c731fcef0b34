"""One stream of one clip as tracks: what a page draws under the clip's time axis.

A track is a few numbers in JSON with bytes in base64. Frame i of a stream covers the time from
`start + (i - 1/2) * hop` to `start + (i + 1/2) * hop`; pooling keeps that true.
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

CLASSES = 8
"""Most probable classes of a clip that get a row."""
ROWS = 48
"""Most rows of a picture whose rows have no names."""
SIGMAS = 3.0
"""Standard deviations at which a picture of features saturates."""
SPARE_KEYS = 3
"""Keys shown above and below those that sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One thing to draw."""

    kind: str
    """How the page draws it: words, notes, pitch, curves or heat."""
    title: str
    source: str
    """TEACHER or TEACHER.STREAM."""
    more: bool
    """Whether it is shown on demand only."""
    data: dict[str, Any]


def of_stream(
    key: str,
    spec: StreamSpec,
    frames_TD: np.ndarray,
    overall: Statistics,
    *,
    like_TD: np.ndarray | None = None,
) -> list[Track]:
    """A stream's tracks.

    Args:
        key: TEACHER.STREAM.
        spec: What the frames are, and when.
        frames_TD: Of one clip.
        overall: Of the stream over the whole cache.
        like_TD: Frames that choose rows and scales in place of the clip's own: two tracks to be
            compared are then drawn alike.
    """
    like_TD = frames_TD if like_TD is None else like_TD
    if track_kinds.has_f0(spec):
        return [track("pitch", "pitch", key, _pitch(spec, frames_TD))]
    kind = KINDS[spec.kind]
    if kind.appearance == "curves":
        columns = list(range(min(spec.dim, track_kinds.MOST_CURVES)))
        return [
            track("curves", spec.name, key, _curves(spec, frames_TD, like_TD, overall, columns))
        ]
    if track_kinds.has_keys(spec):
        return [
            track(
                "heat", f"{spec.name}, posterior", key, _keys(spec, frames_TD, like_TD), more=True
            )
        ]
    if track_kinds.has_classes(spec):
        return [track("heat", spec.name, key, _classes(spec, frames_TD, like_TD))]
    if kind.appearance == "deviations":
        title = f"{spec.name}, standardised"
        data = _features(spec, (frames_TD - overall.mean_D) / overall.std_D)
        picture = track("heat", title, key, data, more=True)
        columns = track_kinds.descriptors(spec)
        if not columns:
            return [picture]
        curves = _curves(spec, frames_TD, like_TD, overall, columns)
        return [track("curves", "descriptors", key, curves), picture]
    data = _probabilities(spec, kind.drawn(frames_TD))
    return [track("heat", spec.name, key, data, more=True)]


def track(kind: str, title: str, source: str, data: dict[str, Any], *, more: bool = False) -> Track:
    """A track; see `Track` for what is what."""
    return Track(kind=kind, title=title, source=source, more=more, data=data)


def _pitch(spec: StreamSpec, frames_TD: np.ndarray) -> dict[str, Any]:
    return {
        "start": spec.start_s,
        "hop": spec.hop_s,
        "f0": [round(float(value), 1) for value in frames_TD[:, 0]],
        "voicing": packed(np.rint(frames_TD[:, 1].clip(0, 1) * 255).astype(np.uint8)),
    }


def _curves(
    spec: StreamSpec,
    frames_TD: np.ndarray,
    like_TD: np.ndarray,
    overall: Statistics,
    columns: list[int],
) -> dict[str, Any]:
    """Columns as curves, on their scale over the whole cache, widened where a clip goes beyond."""
    names = spec.names or (
        [spec.name] if spec.dim == 1 else [f"{spec.name} {at}" for at in range(spec.dim)]
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
                "name": track_kinds.plain(names[column]),
                "low": float(low),
                "high": float(high),
                "values": packed(np.rint(levels_T * 255).astype(np.uint8)),
            }
        )
    return {"start": spec.start_s, "hop": spec.hop_s, "curves": curves}


def _classes(spec: StreamSpec, frames_TD: np.ndarray, like_TD: np.ndarray) -> dict[str, Any]:
    top = np.argsort(-like_TD.max(0), kind="stable")[:CLASSES]
    heat = _heat(spec, frames_TD[:, top], np.maximum.reduceat)
    return heat | {"names": [spec.names[column] for column in top]}


def _keys(spec: StreamSpec, frames_TD: np.ndarray, like_TD: np.ndarray) -> dict[str, Any]:
    """Only the part of the keyboard that sounds."""
    sounding = np.flatnonzero(like_TD.max(0) >= 0.3)
    first, last = (sounding[0], sounding[-1]) if len(sounding) else (36, 48)
    first, last = max(0, first - SPARE_KEYS), min(spec.dim - 1, last + SPARE_KEYS)
    heat = _heat(spec, frames_TD[:, first : last + 1], np.maximum.reduceat)
    lowest = int(spec.names[first].removeprefix("midi "))
    return heat | {"lowest_key": lowest}


def _features(spec: StreamSpec, standard_TD: np.ndarray) -> dict[str, Any]:
    step = 1 if spec.names and spec.dim <= ROWS else -(-spec.dim // ROWS)
    shown_TR = (standard_TD[:, ::step] / SIGMAS).clip(-1, 1) / 2 + 0.5
    heat = _heat(spec, shown_TR, _mean_reduceat) | {"scale": "diverging"}
    if step == 1 and spec.names:
        return heat | {"names": [track_kinds.plain(name) for name in spec.names]}
    return heat | {"note": f"{shown_TR.shape[1]} of {spec.dim} columns"}


def _probabilities(spec: StreamSpec, frames_TD: np.ndarray) -> dict[str, Any]:
    group = -(-frames_TD.shape[1] // ROWS)
    pooled_TR = np.maximum.reduceat(frames_TD, np.arange(0, frames_TD.shape[1], group), axis=1)
    note = {"note": f"{frames_TD.shape[1]} columns, the largest of each {group}"}
    return _heat(spec, pooled_TR, np.maximum.reduceat) | (note if group > 1 else {})


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
