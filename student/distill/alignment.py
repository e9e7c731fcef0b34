"""Teacher frames on the student's time grid.

Every stream's T x D frames become exactly N = K * R frames, by area-weighted averaging over equal
spans of the clip, so that targets are dense tensors whatever the clip's length and the teacher's
frame rate. A frame stands for the time between the midpoints to its neighbours; the first and the
last reach to the ends of the clip. The averages are therefore exact for any T and any duration: a
span inside one frame copies it, a span over many frames is their mean.
"""

from __future__ import annotations

import numpy as np

from manifests.cache.codecs import EncodedFrames
from manifests.cache.stream_sums import Statistics

# Legend: T teacher frames, N student frames (K * R), D columns.

VOICED = 0.5
"""From this voicing on, a frame has a pitch."""


def span_weights(
    num_frames: int, *, start_s: float, hop_s: float, duration: float, num_spans: int
) -> np.ndarray:
    """What share of each student frame each teacher frame covers.

    Args:
        num_frames: T.
        start_s: Centre of the first frame, in seconds.
        hop_s: Seconds between centres.
        duration: Length of the clip, in seconds.
        num_spans: N.

    Returns:
        weights_NT, float32; every row sums to 1.
    """
    midpoints = start_s + hop_s * (np.arange(1, num_frames) - 0.5)
    edges = np.concatenate([[0.0], midpoints.clip(0.0, duration), [duration]])
    spans = np.linspace(0.0, duration, num_spans + 1)
    begin_NT = np.maximum(spans[:-1, None], edges[None, :-1])
    end_NT = np.minimum(spans[1:, None], edges[None, 1:])
    overlap_NT = (end_NT - begin_NT).clip(0.0)
    return (overlap_NT / overlap_NT.sum(1, keepdims=True)).astype(np.float32)


def student_frames(encoded: EncodedFrames, duration: float, num_spans: int) -> np.ndarray:
    """One clip's target frames of one stream.

    For pitch, salience is averaged over voiced frames alone, so that silence does not flatten it;
    voicing, the last column, over all.

    Returns:
        frames_ND, float32.
    """
    frames_TD = encoded.decode()
    spec = encoded.spec
    weights_NT = span_weights(
        len(frames_TD),
        start_s=spec.start_s,
        hop_s=spec.hop_s,
        duration=duration,
        num_spans=num_spans,
    )
    frames_ND = weights_NT @ frames_TD
    if spec.kind == "pitch":
        voiced_T = frames_TD[:, -1] >= VOICED
        share_N = weights_NT @ voiced_T.astype(np.float32)
        salience_ND = (weights_NT * voiced_T) @ frames_TD[:, :-1]
        frames_ND[:, :-1] = salience_ND / np.maximum(share_N, 1e-6)[:, None]
    return frames_ND


def standardised(frames_ND: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Features with each column at zero mean and unit variance over the whole cache."""
    return (frames_ND - statistics.mean_D) / statistics.std_D
