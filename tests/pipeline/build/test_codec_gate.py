"""Tests the limits of codec losses over a version."""

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
from tests.pipeline.here import fill

SPEC = Energy("energy", EnergySettings()).spec()


def marker(frames_TD: np.ndarray, kept_TD: np.ndarray, number: int = 0) -> Marker:
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


def gate(kind: str, codec: str, dim: int) -> CodecGate:
    stream = StreamSpec(
        name="s", kind=kind, dim=dim, start_s=0, hop_s=0.02, window_s=0.02, codec=codec,  # type: ignore[arg-type]
    )  # fmt: skip
    return CodecGate({"energy": replace(SPEC, streams=(stream,))})


def test_a_constant_tone_is_not_a_codec_loss(caplog: pytest.LogCaptureFixture):
    """110 Hz within a tenth, in half precision, whose step there is 0.06 Hz."""
    rng = np.random.default_rng(0)
    f0_TD = (110 + 0.02 * rng.standard_normal((500, 1))).astype(np.float32)
    kept = f0_TD.astype(np.float16).astype(np.float32)
    gate("curve", "fp16", 1).add("energy", marker(f0_TD, kept))
    assert not caplog.records


def test_columns_that_a_codec_drops_are_seen(caplog: pytest.LogCaptureFixture):
    rng = np.random.default_rng(0)
    frames_TD = rng.standard_normal((500, 1280)).astype(np.float32)
    kept_TD = frames_TD.copy()
    kept_TD[1:, :20] = 0
    with caplog.at_level(logging.WARNING):
        gate("features", "int8", 1280).add("energy", marker(frames_TD, kept_TD))
    assert "of the deviation of column" in caplog.text


def test_one_bad_shard_among_good_ones_is_recorded_and_no_more(caplog: pytest.LogCaptureFixture):
    rng = np.random.default_rng(0)
    judge = gate("features", "int8", 8)
    for number in range(10):
        frames_TD = rng.standard_normal((500, 8)).astype(np.float32)
        loss = 0.3 if number == 4 else 0.01
        judge.add("energy", marker(frames_TD, frames_TD + loss, number))
    assert "in shard 4" in caplog.text


def test_a_wrong_codec_ends_the_build_after_some_shards():
    judge = gate("features", "int8", 8)
    frames_TD = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    bad = marker(frames_TD, frames_TD + 0.3)
    judge.add("energy", bad)
    judge.add("energy", bad)
    with pytest.raises(UserError, match=r"over 3 shards; set teacher.energy.codecs.s: fp16"):
        judge.add("energy", bad)


def test_what_is_set_already_is_never_advised():
    judge = gate("features", "fp16", 8)
    rng = np.random.default_rng(0)
    for number in range(9):
        frames_TD = rng.standard_normal((500, 8)).astype(np.float32)
        judge.add("energy", marker(frames_TD, frames_TD + 0.3, number))


def test_a_small_new_shard_is_compared_with_the_existing_version(
    make_corpus: MakeCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A clip with nearly constant bands is an outlier alone, but not compared with earlier
    clips."""
    layout = Layout.create(tmp_path / "cache")
    corpus = make_corpus(8)
    spec = fill(layout, corpus)
    folder = layout.shards(spec, corpus.name)
    (stream,) = spec.streams
    known = Sums.from_json(shards.read_marker(folder, 0).sums[stream.name]).statistics()
    steps_TD = np.random.default_rng(0).normal(size=(50, stream.dim)) * 0.01 * known.std_D
    still_TD = (known.mean_D + steps_TD).astype(np.float32)
    part = marker(still_TD, still_TD + 0.02 * known.std_D)
    part = replace(part, sums={stream.name: part.sums["s"]})
    alone, beside = CodecGate({"energy": spec}), CodecGate({"energy": spec}, {"energy": folder})
    alone.add("energy", part)
    assert "codec int8 loses" in caplog.text
    caplog.clear()
    beside.add("energy", part)
    assert not caplog.records
