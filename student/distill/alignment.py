"""Maps teacher frames to the student's time grid.

Every stream's T x D frames become N frames, by area-weighted averaging over N spans of the clip:
N = K * R equal parts, so that targets are dense tensors for any clip length and frame rate, or
spans of a fixed length as far as the clip extends. A frame covers the time between the midpoints to
its neighbours; the first and the last extend to the ends of the clip. The averages are therefore
exact for any T and any duration: a span inside one frame copies it, a span over many frames is
their mean.

A span overlaps with few frames, so the averages are sparse sums: at most N + T weights instead of N
x T, and no BLAS, whose threads would take longer than the sums in the data workers.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse

from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.stream_sums import Statistics
from manifests.streams.codecs import CODECS, PitchWindows
from manifests.streams.kinds import KINDS, VOICED
from manifests.streams.specs import StreamSpec

# Legend: T teacher frames, N student frames (K * R), D columns, S stored salience bins,
# P pieces: intervals of time that lie in one frame and in one span.


def span_edges(duration: float, num_spans: int, span_s: float | None = None) -> np.ndarray:
    """Beginnings of the student's frames, in seconds, and the end of the last one.

    Args:
        duration: Length of the clip, in seconds.
        num_spans: N, or the most frames with `span_s`.
        span_s: Fixed length of a frame, in seconds; None divides the clip into N equal parts.

    Returns:
        Edges of the frames that begin within the clip; the last frame ends with the clip.
    """
    if span_s is None:
        return np.linspace(0.0, duration, num_spans + 1)
    inside = min(num_spans, max(1, math.ceil(duration / span_s - 1e-6)))
    return np.minimum(np.arange(inside + 1) * span_s, duration)


def span_matrix(
    num_frames: int,
    *,
    start_s: float,
    hop_s: float,
    duration: float,
    num_spans: int,
    span_s: float | None = None,
) -> sparse.csr_array:
    """Computes the share of each student frame that each teacher frame covers.

    Args:
        num_frames: T.
        start_s: Centre of the first frame, in seconds.
        hop_s: Seconds between centres.
        duration: Length of the clip, in seconds.
        num_spans: N, or the most frames with `span_s`.
        span_s: Fixed length of a student frame, in seconds.

    Returns:
        weights_NT, sparse, float32; every row sums to 1.
    """
    midpoints = start_s + hop_s * (np.arange(1, num_frames) - 0.5)
    edges = np.concatenate([[0.0], midpoints.clip(0.0, duration), [duration]])
    spans = span_edges(duration, num_spans, span_s)
    num_spans = len(spans) - 1
    # Frames and spans divide the clip into pieces, each within one frame and one span.
    cuts = np.union1d(edges, spans)
    cuts = cuts[cuts <= spans[-1]]
    centre_P = (cuts[1:] + cuts[:-1]) / 2
    frame_P = np.searchsorted(edges, centre_P, side="right") - 1
    span_P = np.searchsorted(spans, centre_P, side="right") - 1
    first_N = np.searchsorted(span_P, np.arange(num_spans + 1))
    length_P = np.diff(cuts)
    length_N = np.add.reduceat(length_P, first_N[:-1])
    weight_P = (length_P / length_N[span_P]).astype(np.float32)
    return sparse.csr_array((weight_P, frame_P, first_N), shape=(num_spans, num_frames))


def student_frames(
    encoded: EncodedFrames, duration: float, num_spans: int, span_s: float | None = None
) -> np.ndarray:
    """Computes one clip's target frames of one stream.

    Columns that are targets in some frames only (the salience of a pitch stream, in voiced frames)
    are averaged over those frames, so that silence does not reduce them.

    Returns:
        frames_ND, float32; with `span_s`, as many as begin within the clip, at most `num_spans`.
    """
    spec = encoded.spec
    weights_NT = span_matrix(
        encoded.num_frames,
        start_s=spec.start_s,
        hop_s=spec.hop_s,
        duration=duration,
        num_spans=num_spans,
        span_s=span_s,
    )
    num_spans = len(weights_NT.indptr) - 1
    kind, windows = KINDS[spec.kind], CODECS[spec.codec].pitch_windows
    if kind.valid_frames is None:
        values_TD, scale_D = encoded.unscaled()
        return (weights_NT @ values_TD) * scale_D
    if windows is not None:
        return _average_windows(windows(encoded.blob, spec), weights_NT, num_spans, spec)
    frames_TD, columns = encoded.decode(), kind.masked_columns
    frames_ND = weights_NT @ frames_TD
    valid_NT = weights_NT * kind.valid_frames(frames_TD)
    share_N = np.maximum(valid_NT.sum(1), 1e-6)
    frames_ND[:, columns] = (valid_NT @ frames_TD[:, columns]) / share_N[:, None]
    return frames_ND


def _average_windows(
    windows: PitchWindows, weights_NT: sparse.csr_array, num_spans: int, spec: StreamSpec
) -> np.ndarray:
    """Averages pitch frames from the stored bins: 25 around each peak instead of all 360."""
    num_bins, voicing_T = spec.dim - 1, windows.voicing_T
    pieces = weights_NT.tocoo()
    span_P, frame_P = pieces.coords
    weight_P = pieces.data * (voicing_T >= VOICED)[frame_P]
    share_N = np.maximum(np.bincount(span_P, weight_P, num_spans), 1e-6)
    voiced_P = np.flatnonzero(weight_P)
    stored_P = frame_P[voiced_P]
    first_P = span_P[voiced_P] * num_bins + windows.first_T[stored_P]
    salience_PS = windows.salience_TS[stored_P] * (weight_P[voiced_P, None] * np.float32(1 / 255))
    bin_PS = first_P[:, None] + np.arange(salience_PS.shape[1])
    sums = np.bincount(bin_PS.ravel(), salience_PS.ravel(), num_spans * num_bins)
    frames_ND = np.empty((num_spans, num_bins + 1), np.float32)
    frames_ND[:, :-1] = sums.reshape(num_spans, num_bins) / share_N[:, None]
    frames_ND[:, -1] = weights_NT @ voicing_T
    return frames_ND


def standardised(frames_ND: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Standardises features: zero mean and unit variance of each column over the whole cache."""
    return (frames_ND - statistics.mean_D) / statistics.std_D
