"""Tests for the codecs: accuracy, size, determinism and rejected input."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from manifests.cache.encoded_frames import EncodedFrames, encode
from manifests.cache.stream_sums import Sums
from manifests.streams.codecs import CODECS, TOP
from manifests.streams.specs import StreamSpec
from tests.manifests.frames import KINDS, frames, stream


@pytest.mark.parametrize("codec", KINDS)
def test_decoded_frames_are_close_to_the_encoded_ones(codec: str):
    spec, given_TD = stream(codec), frames(codec, seed=1)
    encoded = encode(given_TD, spec)
    kept_TD = EncodedFrames(spec, memoryview(bytes(encoded.blob)), len(given_TD)).decode()

    assert kept_TD.dtype == np.float32
    assert kept_TD.shape == given_TD.shape
    assert Sums.from_frames(given_TD, encoded).codec_loss(spec) < CODECS[codec].max_loss


@pytest.mark.parametrize("codec", KINDS)
def test_encoding_is_deterministic(codec: str):
    spec = stream(codec)
    first, second = (encode(frames(codec, seed=1), spec) for _ in range(2))
    assert bytes(first.blob) == bytes(second.blob)
    assert bytes(first.blob) != bytes(encode(frames(codec, seed=2), spec).blob)


@pytest.mark.parametrize(
    ("codec", "kind", "per_frame", "once"),
    [
        ("fp16", "features", 2 * 40, 0),
        ("int8", "features", 40, 4 * 40),
        ("uint8", "multilabel", 40, 0),
        ("topk16", "multilabel", TOP * 4 + 2, 0),
        ("pitch", "pitch", 25 + 4, 0),
    ],
)
def test_blob_size_matches_bytes_per_frame(codec: str, kind: str, per_frame: int, once: int):
    dim = 361 if codec == "pitch" else 40
    spec = StreamSpec(
        name="x", kind=kind, dim=dim, start_s=0, hop_s=0.01, window_s=0.01, codec=codec
    )
    frames_TD = np.random.default_rng(0).random((7, dim), np.float32)
    assert len(encode(frames_TD, spec).blob) == 7 * per_frame + once
    assert CODECS[codec].blob_bytes(spec, 7) == 7 * per_frame + once


@pytest.mark.parametrize("num_frames", [7, 4_000])
def test_large_blobs_reach_another_process_without_a_copy(num_frames: int):
    spec = stream("int8")
    given_TD = np.random.default_rng(0).normal(size=(num_frames, spec.dim)).astype(np.float32)
    encoded = encode(given_TD, spec)
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(encoded, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == (num_frames == 4_000)
    assert len(pickled) < 10_000
    for again in (
        pickle.loads(pickled, buffers=[buffer.raw() for buffer in buffers]),
        pickle.loads(pickle.dumps(encoded, protocol=4)),
        pickle.loads(pickle.dumps(encoded, protocol=5)),
    ):
        assert (bytes(again.blob), again.num_frames) == (bytes(encoded.blob), num_frames)
        assert np.array_equal(again.decode(), encoded.decode())


def test_int8_scales_each_column_of_a_clip_separately():
    spec = stream("int8")
    frames_TD = frames("int8", seed=1) * np.logspace(-6, 6, spec.dim, dtype=np.float32)
    lost_D = np.abs(encode(frames_TD, spec).decode() - frames_TD).max(0)
    assert (lost_D <= np.abs(frames_TD).max(0) / 254 * 1.001).all()


def test_int8_decodes_a_zero_column_to_zeros():
    spec = stream("int8")
    frames_TD = frames("int8", seed=1)
    frames_TD[:, 3] = 0
    assert not encode(frames_TD, spec).decode()[:, 3].any()


def test_fp16_clamps_large_values_to_finite_ones():
    spec = stream("fp16")
    frames_TD = np.full((2, spec.dim), 1e9, np.float32)
    assert np.isfinite(encode(frames_TD, spec).decode()).all()


def test_topk16_keeps_largest_values_and_total_probability():
    spec, given_TD = stream("topk16"), frames("topk16", seed=1)
    kept_TD = encode(given_TD, spec).decode()
    top_TK = np.argsort(given_TD, 1)[:, -TOP:]
    np.testing.assert_allclose(
        np.take_along_axis(kept_TD, top_TK, 1),
        np.take_along_axis(given_TD, top_TK, 1),
        rtol=1e-3,
        atol=1e-6,
    )
    np.testing.assert_allclose(kept_TD.sum(1), given_TD.sum(1), rtol=2e-3)


@pytest.mark.parametrize("strongest", [0, 5, 180, 355, 359])
def test_pitch_codec_keeps_the_strongest_bin_at_the_edges_of_the_grid(strongest: int):
    spec = stream("pitch")
    frames_TD = np.zeros((3, spec.dim), np.float32)
    frames_TD[:, strongest] = 0.8
    frames_TD[:, -1] = 0.5
    np.testing.assert_allclose(encode(frames_TD, spec).decode(), frames_TD, atol=1 / 255)


@pytest.mark.parametrize(
    ("frames_TD", "message"),
    [
        (np.zeros((0, 40), np.float32), r"expected \(T >= 1, 40\) frames, found \(0, 40\)"),
        (np.zeros((3, 39), np.float32), r"found \(3, 39\)"),
        (np.zeros(40, np.float32), r"found \(40,\)"),
        (np.full((3, 40), np.nan, np.float32), "not finite"),
        (np.full((3, 40), np.inf, np.float32), "not finite"),
    ],
)
def test_encode_rejects_invalid_frames(frames_TD: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        encode(frames_TD, stream("int8"))


@pytest.mark.parametrize("codec", KINDS)
def test_decode_rejects_a_blob_of_the_wrong_size(codec: str):
    encoded = encode(frames(codec, seed=1), stream(codec))
    with pytest.raises(ValueError, match=r"."):
        EncodedFrames(encoded.spec, encoded.blob, encoded.num_frames + 1).decode()
    with pytest.raises(ValueError, match=r"."):
        EncodedFrames(encoded.spec, bytes(encoded.blob)[:-1], encoded.num_frames).decode()
