"""Tests that teacher frames are averaged exactly on the student's grid, for any duration."""

from __future__ import annotations

import time

import numpy as np
import pytest

from manifests.cache.encoded_frames import EncodedFrames, encode
from manifests.streams.kinds import VOICED
from manifests.streams.specs import StreamSpec
from student.distill.alignment import span_edges, span_matrix, student_frames


def dense_weights(
    num_frames: int, duration: float, num_spans: int, start_s: float = 0.02
) -> np.ndarray:
    return span_matrix(
        num_frames, start_s=start_s, hop_s=0.04, duration=duration, num_spans=num_spans
    ).toarray()


@pytest.mark.parametrize(
    ("num_frames", "duration", "num_spans"),
    [(1, 3.0, 8), (3, 0.12, 64), (1000, 40.0, 7), (50, 1.3, 50), (50, 2.7, 16), (9, 0.1, 4)],
)
def test_weights_of_each_span_sum_to_one(num_frames: int, duration: float, num_spans: int) -> None:
    weights_NT = dense_weights(num_frames, duration, num_spans)
    assert weights_NT.shape == (num_spans, num_frames)
    np.testing.assert_allclose(weights_NT.sum(1), 1, rtol=1e-6)
    assert (weights_NT >= 0).all()


def test_average_equals_the_integral_over_the_span() -> None:
    """The reference is a numerical integral of the frames as a step function."""
    rng = np.random.default_rng(0)
    frames_T = rng.standard_normal(33)
    duration, num_spans = 1.25, 6
    times = (np.arange(1_200_000) + 0.5) / 1_200_000 * duration
    nearest = np.clip(np.rint((times - 0.02) / 0.04), 0, 32).astype(int)
    expected_N = frames_T[nearest].reshape(num_spans, -1).mean(1)
    np.testing.assert_allclose(
        dense_weights(33, duration, num_spans) @ frames_T, expected_N, atol=1e-5
    )


def test_frames_after_the_end_of_the_clip_have_no_weight() -> None:
    """Padded windows have frames after the end of the clip."""
    weights_NT = dense_weights(100, 1.0, 5)
    assert weights_NT[:, 26:].sum() == 0
    np.testing.assert_allclose(weights_NT.sum(1), 1, rtol=1e-6)


def test_single_frame_covers_the_clip() -> None:
    assert (dense_weights(1, 5.0, 3, start_s=0.48) == 1).all()


def test_first_and_last_frame_extend_to_the_ends() -> None:
    weights_NT = dense_weights(2, 10.0, 10, start_s=5.0)
    assert weights_NT[0].tolist() == [1, 0]
    assert weights_NT[9].tolist() == [0, 1]


def test_pitch_is_averaged_over_voiced_frames_only() -> None:
    spec = StreamSpec(
        name="p", kind="pitch", dim=361, start_s=0.0, hop_s=0.01, window_s=0.06, codec="pitch"
    )
    frames_TD = np.zeros((40, 361), np.float32)
    frames_TD[:10, 100] = 1.0  # voiced, bin 100
    frames_TD[:10, -1] = 1.0
    frames_TD[10:, 300] = 1.0  # unvoiced: its peak is ignored
    frames_ND = student_frames(encode(frames_TD, spec), 0.395, 2)
    assert frames_ND[0, 100] == pytest.approx(1.0, abs=1e-3)
    assert frames_ND[0, 300] == 0
    assert 0.4 < frames_ND[0, -1] < 0.6
    assert frames_ND[1].max() == 0


def dense_average(encoded: EncodedFrames, duration: float, num_spans: int) -> np.ndarray:
    """Computes targets from dense weights in double precision, frame by frame."""
    frames_TD = encoded.decode().astype(np.float64)
    spec, num_frames = encoded.spec, encoded.num_frames
    middles = [spec.start_s + spec.hop_s * (t - 0.5) for t in range(1, num_frames)]
    edges = [0.0, *(min(max(middle, 0.0), duration) for middle in middles), duration]
    weights_NT = np.zeros((num_spans, num_frames))
    for n in range(num_spans):
        begin, end = n * duration / num_spans, (n + 1) * duration / num_spans
        for t in range(num_frames):
            overlap = min(end, edges[t + 1]) - max(begin, edges[t])
            weights_NT[n, t] = max(overlap, 0.0) / (end - begin)
    if spec.kind != "pitch":
        return weights_NT @ frames_TD
    voiced_T = frames_TD[:, -1] >= VOICED
    salience_ND = np.zeros((num_spans, spec.dim - 1))
    for n in range(num_spans):
        share = (weights_NT[n] * voiced_T).sum()
        if share > 1e-9:
            salience_ND[n] = (weights_NT[n] * voiced_T) @ frames_TD[:, :-1] / share
    return np.concatenate([salience_ND, (weights_NT @ frames_TD[:, -1:])], 1)


@pytest.mark.parametrize(
    ("kind", "codec", "dim"),
    [("features", "int8", 7), ("features", "fp16", 7), ("multilabel", "uint8", 5),
     ("multilabel", "topk16", 40), ("pitch", "pitch", 361), ("pitch", "fp16", 61)],
)  # fmt: skip
def test_student_frames_match_dense_averages(kind: str, codec: str, dim: int) -> None:
    """Random grids have any number of frames, starts before and after 0, and truncated clips."""
    rng = np.random.default_rng(dim)
    for _ in range(40):
        hop_s = rng.uniform(0.005, 0.6)
        spec = StreamSpec(
            name="s", kind=kind, dim=dim, start_s=rng.uniform(-0.1, 0.5), hop_s=hop_s,
            window_s=hop_s, codec=codec,
        )  # fmt: skip
        num_frames, num_spans = int(rng.integers(1, 60)), int(rng.integers(1, 40))
        duration = float(rng.uniform(0.1, 1.3 * hop_s * num_frames + 0.1))
        low = -3.0 if kind == "features" else 0.0
        frames_TD = rng.uniform(low, 1.0, (num_frames, dim)).astype(np.float32)
        encoded = encode(frames_TD, spec)
        frames_ND = student_frames(encoded, duration, num_spans)
        assert frames_ND.dtype == np.float32
        expected_ND = dense_average(encoded, duration, num_spans)
        np.testing.assert_allclose(frames_ND, expected_ND, rtol=2e-5, atol=2e-5)


def test_blob_of_the_wrong_size_raises_an_error() -> None:
    spec = StreamSpec(
        name="s", kind="features", dim=4, start_s=0.0, hop_s=0.1, window_s=0.1, codec="int8"
    )
    whole = encode(np.ones((3, 4), np.float32), spec)
    with pytest.raises(ValueError, match="stream s: the blob holds"):
        student_frames(EncodedFrames(spec, whole.blob, 2), 0.3, 2)


def test_targets_of_30_s_take_less_than_12_ms() -> None:
    """With the width of Whisper large, dense products took 45 ms, and sparse sums take 1 ms."""
    spec = StreamSpec(
        name="s", kind="features", dim=1280, start_s=0.01, hop_s=0.02, window_s=0.02, codec="int8"
    )
    encoded = encode(np.random.default_rng(0).standard_normal((1500, 1280), np.float32), spec)
    seconds = []
    for _ in range(5):
        start = time.process_time()  # CPU time does not depend on other processes
        student_frames(encoded, 30.0, 128)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.012


def test_frames_of_fixed_length_end_with_the_clip() -> None:
    """A clip of 0.5 s has two frames of 0.2 s, and one that averages over the last 0.1 s."""
    assert span_edges(0.5, 4, 0.2).tolist() == pytest.approx([0, 0.2, 0.4, 0.5])
    assert span_edges(0.4, 4, 0.2).tolist() == pytest.approx([0, 0.2, 0.4])
    assert span_edges(5.0, 4, 0.2).tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    spec = StreamSpec(name="x", kind="multilabel", dim=1, start_s=0.005, hop_s=0.01, window_s=0.01,
                      codec="fp16")  # fmt: skip
    values_TD = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    encoded = encode(values_TD, spec)
    frames_ND = student_frames(encoded, 0.5, 4, 0.2)
    expected = [values_TD[:20].mean(), values_TD[20:40].mean(), values_TD[40:].mean()]
    np.testing.assert_allclose(frames_ND[:, 0], expected, atol=2e-3)
    first_ND = student_frames(encoded, 0.5, 2, 0.2)
    np.testing.assert_array_equal(first_ND, frames_ND[:2])
    # With frames that fill the clip exactly, the result is that of equal spans.
    np.testing.assert_allclose(
        student_frames(encoded, 0.5, 5, 0.1), student_frames(encoded, 0.5, 5), atol=1e-6
    )
