"""Converts predictions of heads to tracks for the report, the evaluation and the demo.

Frames are on the student's time grid: N frames over equal spans of the clip. Features are in
standard deviations from the cache's mean; logits are converted to probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from manifests.cache.stream_sums import Statistics
from manifests.page.track_kinds import short_name
from manifests.page.tracks import MOST_CLASSES, Track, pitch_data, stream_tracks
from manifests.streams.kinds import KINDS
from manifests.streams.pitch_bins import PitchBins
from manifests.streams.specs import StreamSpec
from student.distill.kinds import to_target_units
from student.distill.streams import Stream
from student.inference.head_outputs import HeadOutput

# Legend: N student frames (K * R), D columns.


def paired_tracks(
    stream: Stream,
    output_ND: np.ndarray,
    target_ND: np.ndarray,
    *,
    seconds: float,
    note: str = "",
) -> list[Track]:
    """Returns tracks of the cached frames of a stream, each followed by the predicted track.

    Both use the rows and scales of the cached frames, so that they can be compared visually.

    Args:
        stream: The stream.
        output_ND: The head's output.
        target_ND: The cached frames on the student's grid.
        seconds: Duration of the clip.
        note: Text shown with the predicted tracks.
    """
    spec = _spec(
        stream.name,
        stream.kind,
        target_ND,
        seconds=seconds,
        names=stream.reader.spec.names if stream.reader else (),
        pitch_bins=stream.pitch_bins,
    )
    predicted_ND = to_target_units(stream.kind, output_ND)
    unit = _unit_statistics(spec)
    cached = stream_tracks(stream.name, spec, target_ND, unit)
    predicted = stream_tracks(stream.name, spec, predicted_ND, unit, like_TD=target_ND)
    scale = ", standardised" if KINDS[stream.kind].is_standardised else ""
    tracks = []
    for cached_track, predicted_track in zip(cached, predicted, strict=True):
        for track, source, about in (
            (cached_track, "cached", {}),
            (predicted_track, "predicted", {"note": note}),
        ):
            tracks.append(
                dataclasses.replace(
                    track,
                    title=f"{track.title.removesuffix(scale)}{scale}, {source}",
                    more=track.more and len(cached) > 1,
                    data=track.data | {"who": source} | about,
                )
            )
    return tracks


def output_tracks(outputs: Sequence[HeadOutput], *, seconds: float) -> list[Track]:
    """Returns tracks of the heads' predictions: pitch, then classes, then descriptors.

    Features without column names are not drawn, because plots of hundreds of columns are
    unreadable.
    """
    shown = [each for each in outputs if KINDS[each.kind].has_pitch_bins or each.names]
    shown.sort(key=_reading_order)
    return [_output_track(each, seconds) for each in shown]


def _reading_order(output: HeadOutput) -> int:
    kind = KINDS[output.kind]
    return 0 if kind.has_pitch_bins else 1 if kind.has_classes else 2


def _output_track(output: HeadOutput, seconds: float) -> Track:
    kind = KINDS[output.kind]
    spec = _spec(
        output.stream,
        output.kind,
        output.values_ND,
        seconds=seconds,
        names=output.names,
        pitch_bins=output.pitch_bins,
    )
    unit = "Hz" if kind.has_pitch_bins else kind.target_unit
    title = f"{output.stream} ({unit})"
    if kind.has_pitch_bins:
        data = pitch_data(spec, np.nan_to_num(output.pitch_track), output.values_ND[:, -1])
        return Track(kind="pitch", title=title, source="", data=data)
    # The classes with the highest peaks, or the descriptors with the largest variation.
    deviates = kind.appearance == "deviations"
    weight_D = np.ptp(output.values_ND, axis=0) if deviates else output.values_ND.max(0)
    columns = np.argsort(-weight_D, kind="stable")[:MOST_CLASSES]
    chosen = dataclasses.replace(
        spec, dim=len(columns), names=tuple(short_name(spec.names[column]) for column in columns)
    )
    values_ND = output.values_ND[:, columns]
    (track,) = (
        each
        for each in stream_tracks("", chosen, values_ND, _unit_statistics(chosen))
        if each.kind == "heat"
    )
    names = [
        name if deviates else f"{name}  {peak:.2f}"
        for name, peak in zip(chosen.names, values_ND.max(0), strict=True)
    ]
    return dataclasses.replace(track, title=title, data=track.data | {"names": names})


def _spec(
    name: str,
    kind: str,
    frames_ND: np.ndarray,
    *,
    seconds: float,
    names: tuple[str, ...],
    pitch_bins: PitchBins,
) -> StreamSpec:
    """Builds the spec of frames on the student's grid."""
    hop_s = seconds / len(frames_ND)
    return StreamSpec(
        name=name.partition(".")[2] or name,
        kind=kind,
        dim=frames_ND.shape[1],
        start_s=hop_s / 2,
        hop_s=hop_s,
        window_s=hop_s,
        codec="fp16",
        names=names,
        pitch_bins=pitch_bins,
    )


def _unit_statistics(spec: StreamSpec) -> Statistics:
    """Returns mean 0 and deviation 1: the frames are standardised already."""
    return Statistics(np.zeros(spec.dim, np.float32), np.ones(spec.dim, np.float32), 1)
