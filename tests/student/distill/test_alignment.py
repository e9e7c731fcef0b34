"""Teacher frames on the student's grid: exact for any number of frames and any duration."""

from __future__ import annotations

import numpy as np
import pytest

from manifests.cache.codecs import encode
from manifests.streams.specs import StreamSpec
from student.distill.alignment import span_weights, student_frames


def weights(num_frames: int, duration: float, num_spans: int, start_s: float = 0.02) -> np.ndarray:
    return span_weights(
        num_frames, start_s=start_s, hop_s=0.04, duration=duration, num_spans=num_spans
    )


@pytest.mark.parametrize(
    ("num_frames", "duration", "num_spans"),
    [(1, 3.0, 8), (3, 0.12, 64), (1000, 40.0, 7), (50, 1.3, 50), (50, 2.7, 16), (9, 0.1, 4)],
)
def test_every_span_is_covered_once(num_frames: int, duration: float, num_spans: int) -> None:
    weights_NT = weights(num_frames, duration, num_spans)
    assert weights_NT.shape == (num_spans, num_frames)
    np.testing.assert_allclose(weights_NT.sum(1), 1, rtol=1e-6)
    assert (weights_NT >= 0).all()


def test_average_is_the_integral_of_the_frames() -> None:
    """Against a numerical integral of the step function that the frames stand for."""
    rng = np.random.default_rng(0)
    frames_T = rng.standard_normal(33)
    duration, num_spans = 1.25, 6
    times = (np.arange(1_200_000) + 0.5) / 1_200_000 * duration
    nearest = np.clip(np.rint((times - 0.02) / 0.04), 0, 32).astype(int)
    expected_N = frames_T[nearest].reshape(num_spans, -1).mean(1)
    np.testing.assert_allclose(weights(33, duration, num_spans) @ frames_T, expected_N, atol=1e-5)


def test_frames_beyond_the_clip_count_for_nothing() -> None:
    """A window that was padded to its length has frames after the clip's end."""
    weights_NT = weights(100, 1.0, 5)
    assert weights_NT[:, 26:].sum() == 0
    np.testing.assert_allclose(weights_NT.sum(1), 1, rtol=1e-6)


def test_one_frame_fills_the_clip() -> None:
    assert (weights(1, 5.0, 3, start_s=0.48) == 1).all()


def test_first_and_last_frame_reach_the_ends() -> None:
    weights_NT = weights(2, 10.0, 10, start_s=5.0)
    assert weights_NT[0].tolist() == [1, 0]
    assert weights_NT[9].tolist() == [0, 1]


def test_pitch_is_averaged_over_voiced_frames_alone() -> None:
    spec = StreamSpec(
        name="p", kind="pitch", dim=361, start_s=0.0, hop_s=0.01, window_s=0.06, codec="pitch"
    )
    frames_TD = np.zeros((40, 361), np.float32)
    frames_TD[:10, 100] = 1.0  # voiced, bin 100
    frames_TD[:10, -1] = 1.0
    frames_TD[10:, 300] = 1.0  # not voiced: its peak means nothing
    frames_ND = student_frames(encode(frames_TD, spec), 0.395, 2)
    assert frames_ND[0, 100] == pytest.approx(1.0, abs=1e-3)
    assert frames_ND[0, 300] == 0
    assert 0.4 < frames_ND[0, -1] < 0.6
    assert frames_ND[1].max() == 0
