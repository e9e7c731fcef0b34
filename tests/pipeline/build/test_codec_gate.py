"""Tests for the limits of codec loss over the shards of a version."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manifests.cache import shards
from manifests.cache.layout import Layout
from manifests.cache.shards import Marker
from manifests.cache.stream_sums import Sums
from manifests.errors import UserError
from manifests.streams.specs import StreamSpec
from pipeline.build.codec_gate import CodecGate
from tests.pipeline.conftest import MakeCorpus
from tests.pipeline.fakes import Energy, EnergySettings
from tests.pipeline.local_cache import fill

SPEC = Energy("energy", EnergySettings()).spec()


def make_marker(frames_TD: np.ndarray, kept_TD: np.ndarray, number: int = 0) -> Marker:
    lost_TD = (frames_TD - kept_TD).astype(float)
    sums = Sums(
        len(frames_TD),
        frames_TD.sum(0, dtype=float),
        np.square(frames_TD.astype(float)).sum(0),
        np.square(lost_TD).sum(0),
        float(np.abs(lost_TD).max()),
    )
    return Marker(
        shard=number, clips=1, rows=1, failures={}, seconds=1.0, extract_seconds=1.0, finished="",
        clips_digest="", data="", data_bytes=0, data_sha256="", failures_data="",
        failures_sha256="", sums={"s": sums.to_json()},
    )  # fmt: skip


def make_gate(kind: str, codec: str, dim: int) -> CodecGate:
    stream = StreamSpec(
        name="s", kind=kind, dim=dim, start_s=0, hop_s=0.02, window_s=0.02, codec=codec,  # type: ignore[arg-type]
    )  # fmt: skip
    return CodecGate({"energy": replace(SPEC, streams=(stream,))})


def test_rounding_of_a_constant_curve_is_not_a_codec_loss(caplog: pytest.LogCaptureFixture):
    """The curve is 110 Hz within 0.1 Hz; the step of half precision there is 0.06 Hz."""
    rng = np.random.default_rng(0)
    f0_TD = (110 + 0.02 * rng.standard_normal((500, 1))).astype(np.float32)
    kept = f0_TD.astype(np.float16).astype(np.float32)
    make_gate("curve", "fp16", 1).add("energy", make_marker(f0_TD, kept))
    assert not caplog.records


def test_dropped_columns_get_a_warning(caplog: pytest.LogCaptureFixture):
    rng = np.random.default_rng(0)
    frames_TD = rng.standard_normal((500, 1280)).astype(np.float32)
    kept_TD = frames_TD.copy()
    kept_TD[1:, :20] = 0
    with caplog.at_level(logging.WARNING):
        make_gate("features", "int8", 1280).add("energy", make_marker(frames_TD, kept_TD))
    assert "of the deviation of column" in caplog.text


def test_one_bad_shard_among_good_ones_only_gets_a_warning(caplog: pytest.LogCaptureFixture):
    rng = np.random.default_rng(0)
    codec_gate = make_gate("features", "int8", 8)
    for number in range(10):
        frames_TD = rng.standard_normal((500, 8)).astype(np.float32)
        loss = 0.3 if number == 4 else 0.01
        codec_gate.add("energy", make_marker(frames_TD, frames_TD + loss, number))
    assert "in shard 4" in caplog.text


def test_lossy_codec_raises_an_error_after_three_bad_shards():
    codec_gate = make_gate("features", "int8", 8)
    frames_TD = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    bad = make_marker(frames_TD, frames_TD + 0.3)
    codec_gate.add("energy", bad)
    codec_gate.add("energy", bad)
    with pytest.raises(UserError, match=r"over 3 shards; set teacher.energy.codecs.s: fp16"):
        codec_gate.add("energy", bad)


def test_lossless_codec_raises_no_error_about_itself():
    codec_gate = make_gate("features", "fp16", 8)
    rng = np.random.default_rng(0)
    for number in range(9):
        frames_TD = rng.standard_normal((500, 8)).astype(np.float32)
        codec_gate.add("energy", make_marker(frames_TD, frames_TD + 0.3, number))


def test_small_new_shard_is_compared_with_the_existing_version(
    make_corpus: MakeCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A clip with nearly constant bands is only an outlier without earlier clips."""
    layout = Layout.create(tmp_path / "cache")
    corpus = make_corpus(8)
    spec = fill(layout, corpus)
    folder = layout.shards(spec, corpus.name)
    (stream,) = spec.streams
    known = Sums.from_json(shards.read_marker(folder, 0).sums[stream.name]).statistics()
    steps_TD = np.random.default_rng(0).normal(size=(50, stream.dim)) * 0.01 * known.std_D
    steady_TD = (known.mean_D + steps_TD).astype(np.float32)
    part = make_marker(steady_TD, steady_TD + 0.02 * known.std_D)
    part = replace(part, sums={stream.name: part.sums["s"]})
    without_version, with_version = (
        CodecGate({"energy": spec}),
        CodecGate({"energy": spec}, {"energy": folder}),
    )
    without_version.add("energy", part)
    assert "codec int8 loses" in caplog.text
    caplog.clear()
    with_version.add("energy", part)
    assert not caplog.records
