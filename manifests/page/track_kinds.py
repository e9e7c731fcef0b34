"""Chooses how a stream is drawn, by its kind and the names of its columns.

The choice does not depend on teachers' names, so streams of any teacher can be drawn.
"""

from __future__ import annotations

from manifests.streams.kinds import KINDS, Appearance
from manifests.streams.specs import StreamSpec

SHOWN_DESCRIPTORS = (
    "Loudness", "spectralFlux", "alphaRatio", "HNR", "jitterLocal", "shimmerLocal",
    "arousal", "valence", "dominance",
)  # fmt: skip
"""Prefixes of the names of the descriptors that are drawn as curves."""
MOST_CURVES = 6
MOST_DESCRIPTORS = 100
"""Features with at most this many named columns are descriptors, wider ones embeddings."""
SPEECH = "Speech"
"""AudioSet's name of the class."""


def has_f0(spec: StreamSpec) -> bool:
    """Whether the columns are fundamental frequency in Hz, then its voicing in [0, 1]."""
    return _appearance(spec) == "curves" and spec.names[:2] == ("f0", "voicing")


def has_keys(spec: StreamSpec) -> bool:
    """Whether the columns are the keys of a piano."""
    return bool(spec.names) and all(name.startswith("midi ") for name in spec.names)


def has_classes(spec: StreamSpec) -> bool:
    """Whether the columns are probabilities of named classes."""
    return KINDS[spec.kind].has_classes and bool(spec.names) and not has_keys(spec)


def descriptors(spec: StreamSpec) -> list[int]:
    """Columns to draw as curves, of a narrow features stream with named columns."""
    if _appearance(spec) != "deviations" or not spec.names or spec.dim > MOST_DESCRIPTORS:
        return []
    columns = [
        column
        for beginning in SHOWN_DESCRIPTORS
        for column, name in enumerate(spec.names)
        if name.lower().startswith(beginning.lower())
    ]
    return (columns or list(range(spec.dim)))[:MOST_CURVES]


def short_name(name: str) -> str:
    """A descriptor's name without the suffixes by which openSMILE marks smoothing."""
    return name.removesuffix("nz").removesuffix("_sma3")


def is_summarized(spec: StreamSpec) -> bool:
    """Whether the report's distributions or checks need the frames of a stream."""
    return _appearance(spec) == "deviations" or has_f0(spec) or has_classes(spec)


def _appearance(spec: StreamSpec) -> Appearance:
    return KINDS[spec.kind].appearance
