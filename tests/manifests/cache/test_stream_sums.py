"""Statistics of a stream from the sums of its parts."""

from __future__ import annotations

import numpy as np
import pytest

from manifests.cache.encoded_frames import encode
from manifests.cache.stream_sums import Sums
from tests.manifests.frames import KINDS, frames, stream


@pytest.mark.parametrize("codec", KINDS)
def test_parts_add_up_to_the_whole(codec: str):
    spec, parts = stream(codec), [frames(codec, seed=at, count=5 + at) for at in range(4)]
    total = Sums.zero(spec.dim)
    for part_TD in parts:
        total.add(Sums.from_json(Sums.of(part_TD, encode(part_TD, spec)).to_json()))

    whole_TD = np.concatenate(parts).astype(np.float64)
    statistics = total.statistics()
    assert statistics.num_frames == len(whole_TD)
    np.testing.assert_allclose(statistics.mean_D, whole_TD.mean(0), rtol=1e-4, atol=1e-6)
    deviation_D = whole_TD.std(0)
    moving_D = deviation_D > 1e-5
    np.testing.assert_allclose(statistics.std_D[moving_D], deviation_D[moving_D], rtol=1e-3)


def test_a_constant_column_has_deviation_one():
    frames_TD = frames("int8", seed=1)
    frames_TD[:, 4] = 1234.5
    sums = Sums.of(frames_TD, encode(frames_TD, stream("int8")))
    assert sums.statistics().std_D[4] == 1


def test_a_stream_without_frames_has_finite_statistics():
    statistics = Sums.zero(3).statistics()
    assert statistics.num_frames == 0
    assert np.isfinite(statistics.mean_D).all()
    assert (statistics.std_D == 1).all()


def test_the_loss_is_what_the_codec_lost():
    spec, given_TD = stream("int8"), frames("int8", seed=1)
    encoded = encode(given_TD, spec)
    lost_TD = given_TD - encoded.decode()
    sums = Sums.of(given_TD, encoded)
    expected = (np.sqrt((lost_TD**2).mean(0)) / given_TD.std(0)).mean()
    assert sums.codec_loss(spec) == pytest.approx(expected, rel=1e-4)
    assert sums.max_lost == pytest.approx(np.abs(lost_TD).max())


def test_pitch_loses_nothing_on_unvoiced_frames():
    spec, given_TD = stream("pitch"), frames("pitch", seed=1)
    given_TD[:, :-1] = 0.5
    given_TD[:, -1] = 0.4
    assert Sums.of(given_TD, encode(given_TD, spec)).lost_D.sum() == 0
    given_TD[:, -1] = 0.6
    assert Sums.of(given_TD, encode(given_TD, spec)).lost_D.sum() > 0
