"""Tests for `Sums`: statistics of a stream from the sums of its parts, and the codec's loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from manifests.cache.encoded_frames import encode
from manifests.cache.stream_sums import Sums, encode_and_sum
from manifests.streams.specs import StreamSpec
from tests.manifests.frames import KINDS, frames, stream


@pytest.mark.parametrize("codec", KINDS)
def test_statistics_of_added_sums_match_the_concatenated_frames(codec: str):
    spec, parts = stream(codec), [frames(codec, seed=index, count=5 + index) for index in range(4)]
    total = Sums.zero(spec.dim)
    for part_TD in parts:
        total.add(Sums.from_json(Sums.from_frames(part_TD, encode(part_TD, spec)).to_json()))

    whole_TD = np.concatenate(parts).astype(np.float64)
    statistics = total.statistics()
    assert statistics.num_frames == len(whole_TD)
    np.testing.assert_allclose(statistics.mean_D, whole_TD.mean(0), rtol=1e-4, atol=1e-6)
    deviation_D = whole_TD.std(0)
    moving_D = deviation_D > 1e-5
    np.testing.assert_allclose(statistics.std_D[moving_D], deviation_D[moving_D], rtol=1e-3)


def test_constant_column_has_standard_deviation_one():
    frames_TD = frames("int8", seed=1)
    frames_TD[:, 4] = 1234.5
    sums = Sums.from_frames(frames_TD, encode(frames_TD, stream("int8")))
    assert sums.statistics().std_D[4] == 1


def test_empty_stream_has_finite_statistics():
    statistics = Sums.zero(3).statistics()
    assert statistics.num_frames == 0
    assert np.isfinite(statistics.mean_D).all()
    assert (statistics.std_D == 1).all()


def test_codec_loss_is_the_error_relative_to_the_standard_deviation():
    spec, given_TD = stream("int8"), frames("int8", seed=1)
    encoded = encode(given_TD, spec)
    lost_TD = given_TD - encoded.decode()
    sums = Sums.from_frames(given_TD, encoded)
    expected = (np.sqrt((lost_TD**2).mean(0)) / given_TD.std(0)).mean()
    assert sums.codec_loss(spec) == pytest.approx(expected, rel=1e-4)
    assert sums.max_lost == pytest.approx(np.abs(lost_TD).max())


def test_pitch_codec_loss_ignores_unvoiced_frames():
    spec, given_TD = stream("pitch"), frames("pitch", seed=1)
    given_TD[:, :-1] = 0.5
    given_TD[:, -1] = 0.4
    assert Sums.from_frames(given_TD, encode(given_TD, spec)).lost_D.sum() == 0
    given_TD[:, -1] = 0.6
    assert Sums.from_frames(given_TD, encode(given_TD, spec)).lost_D.sum() > 0


@pytest.mark.parametrize(("dim", "count"), [(2, 9000), (384, 1500), (521, 40), (1280, 750)])
def test_sums_match_a_direct_computation_in_float64(dim: int, count: int):
    """Narrow streams must match bit by bit, wide streams within the precision of float32."""
    rng = np.random.default_rng(dim)
    frames_TD = (rng.normal(50, 1, (count, dim)) * np.logspace(-3, 3, dim)).astype(np.float32)
    spec = StreamSpec(
        name="x", kind="features", dim=dim, start_s=0, hop_s=0.02, window_s=0.02, codec="int8"
    )
    encoded = encode(frames_TD, spec)
    sums = Sums.from_frames(frames_TD, encoded)
    total_D, square_D, lost_D = np.zeros(dim), np.zeros(dim), np.zeros(dim)
    for first in range(0, count, 4096):
        part_TD = frames_TD[first : first + 4096]
        total_D += part_TD.astype(np.float64).sum(0)
        square_D += np.square(part_TD.astype(np.float64)).sum(0)
        lost_D += np.square((part_TD - encoded.decode()[first : first + 4096]).astype(float)).sum(0)
    if dim < 640:
        assert np.array_equal(sums.total_D, total_D)
        assert np.array_equal(sums.square_D, square_D)
    else:
        exact = Sums(count, total_D, square_D, lost_D, 0.0).statistics()
        np.testing.assert_allclose(sums.statistics().mean_D, exact.mean_D, rtol=2e-7)
        np.testing.assert_allclose(sums.statistics().std_D, exact.std_D, rtol=2e-6)
    np.testing.assert_allclose(sums.lost_D, lost_D, rtol=1e-5)
    assert sums.max_lost == np.abs(frames_TD - encoded.decode()).max()


def test_statistics_of_wide_frames_handle_constant_and_huge_columns():
    frames_TD = np.random.default_rng(0).normal(size=(300, 1280)).astype(np.float32)
    frames_TD[:, 7] = 1234.567
    frames_TD[:, 8] *= np.float32(1e25)
    spec = StreamSpec(
        name="x", kind="features", dim=1280, start_s=0, hop_s=0.02, window_s=0.02, codec="int8"
    )
    statistics = Sums.from_frames(frames_TD, encode(frames_TD, spec)).statistics()
    assert statistics.std_D[7] == 1
    np.testing.assert_allclose(statistics.std_D[8], frames_TD[:, 8].astype(float).std(), rtol=1e-5)


@pytest.mark.parametrize("codec", ["int8", "fp16", "uint8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_encode_rejects_values_that_are_not_finite(codec: str, value: float):
    frames_TD = np.zeros((9, 40), np.float32)
    frames_TD[5, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        encode(frames_TD, stream(codec))


@pytest.mark.parametrize("codec", KINDS)
def test_encode_and_sum_matches_summing_after_encoding(codec: str):
    spec = stream(codec)
    wide = replace(spec, dim=1280) if codec in ("int8", "fp16") else spec
    rng = np.random.default_rng(0)
    for item, frames_TD in (
        (spec, frames(codec, seed=1)),
        (wide, rng.normal(3, 1, (130, wide.dim)).astype(np.float32).clip(0, 1)),
    ):
        encoded, sums = encode_and_sum(frames_TD, item)
        assert encoded.blob == encode(frames_TD, item).blob
        after = Sums.from_frames(frames_TD, encoded)
        if item.dim < 640 or item.codec != "int8":
            assert sums.to_json() == after.to_json()
        # Wide int8 frames: the loss is summed before it is scaled, and a constant column has none.
        assert np.array_equal(sums.total_D, after.total_D)
        assert np.array_equal(sums.square_D, after.square_D)
        np.testing.assert_allclose(sums.lost_D, after.lost_D, rtol=5e-3)
        assert sums.max_lost == pytest.approx(after.max_lost, rel=1e-4)


@pytest.mark.filterwarnings("error")
def test_encode_and_sum_rejects_wide_frames_that_are_not_finite_or_have_the_wrong_width():
    spec = replace(stream("int8"), dim=1280)
    frames_TD = np.zeros((60, 1280), np.float32)
    frames_TD[55, 7] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        encode_and_sum(frames_TD, spec)
    for wrong in (frames_TD[:, :9], frames_TD[:0]):
        with pytest.raises(ValueError, match="expected"):
            encode_and_sum(wrong, spec)
