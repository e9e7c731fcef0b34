"""Tests for the records of stream kinds and codecs, and for the pitch grid in a stream's spec."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from manifests.cache import marker_index, shards
from manifests.cache.encoded_frames import encode
from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.cache.stream_sums import Sums
from manifests.clips import Clip
from manifests.corpus.corpus import build
from manifests.errors import UserError
from manifests.page.tracks import stream_tracks
from manifests.streams.codecs import CODECS, Codec
from manifests.streams.kinds import KINDS, StreamKind
from manifests.streams.pitch_bins import CREPE_BINS, PitchBins
from manifests.streams.specs import StreamSpec, TeacherSpec
from pipeline.build.plan import ROW_BYTES, SHARD_BYTES, estimate

FINE = PitchBins(lowest_hz=50.0, cents_per_bin=10.0)


def stream(**fields) -> StreamSpec:
    given = {
        "name": "s", "kind": "features", "dim": 6, "start_s": 0.0, "hop_s": 0.5, "window_s": 0.5,
        "codec": "fp16",
    } | fields  # fmt: skip
    return StreamSpec(**given)


def teacher(*streams: StreamSpec) -> TeacherSpec:
    return TeacherSpec(
        name="t", family="none", revision=1, settings={}, weights={}, sample_rate=16_000,
        streams=streams, license="none",
    )  # fmt: skip


def write_cache(folder: Path, spec: TeacherSpec, frames: dict[str, np.ndarray]) -> Layout:
    """Writes a cache of one clip."""
    corpus = build([Clip(clip_id="clip", uri="/none.wav", duration=10.0)], folder / "corpus")
    layout = Layout.create(folder / "cache")
    layout.register(corpus)
    layout.add_teacher(spec)
    encoded = {name: encode(values, spec.stream(name)) for name, values in frames.items()}
    row = shards.Row(
        clip_id="clip", duration=10.0, audio_digest="0" * 32, metadata={}, frames=encoded
    )
    shards.write(
        layout.shards(spec, corpus.name), spec, shard=0, clip_ids=["clip"], rows=[row],
        failures=[], sums={name: Sums.from_frames(frames[name], encoded[name]) for name in frames},
        extract_seconds=1.0, finished="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    return layout


def test_new_codec_needs_only_its_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A throwaway codec of float32 goes through the spec, the cache, the reader and the plan."""
    monkeypatch.setitem(CODECS, "float32", Codec(
        name="float32",
        encode=lambda frames_TD, stream: frames_TD.astype("<f4").tobytes(),
        decode=lambda blob, stream: np.frombuffer(blob, "<f4").reshape(-1, stream.dim),
        bytes_per_frame=lambda stream: 4 * stream.dim,
        max_loss=1e-9, compressed_share=1.0, is_compressed=False,
    ))  # fmt: skip
    spec = teacher(stream(codec="float32"))
    frames_TD = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    layout = write_cache(tmp_path, spec, {"s": frames_TD})

    reader = CacheReader(tmp_path / "cache")
    np.testing.assert_array_equal(reader.stream("t.s")["clip"].decode(), frames_TD)
    sums = marker_index.read_sums(layout.shards(spec, "corpus"))
    assert sums["s"].codec_loss(spec.stream("s")) < 1e-9
    corpus = layout.corpus("corpus")
    cost = estimate(Layout.create(tmp_path / "empty"), corpus, spec, [0])
    assert cost.cache_bytes == pytest.approx(10.0 / 0.5 * 4 * 6 + SHARD_BYTES + ROW_BYTES)
    (size,) = layout.shards(spec, "corpus").child("data").sizes().values()
    assert cost.cache_bytes == pytest.approx(size, rel=0.3)
    assert estimate(layout, corpus, spec, [0]).cache_bytes == size, "measured"


def test_new_kind_needs_only_its_record_for_cache_and_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    kind = StreamKind(name="energy", meaning="levels", appearance="curves", is_physical=True)
    monkeypatch.setitem(KINDS, "energy", kind)
    spec = teacher(stream(kind="energy"))
    frames_TD = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    write_cache(tmp_path, spec, {"s": frames_TD})
    reader = CacheReader(tmp_path / "cache").stream("t.s")
    assert reader.spec.kind == "energy"
    (track,) = stream_tracks("t.s", reader.spec, reader["clip"].decode(), reader.statistics())
    assert track.kind == "curves"


def test_unknown_kind_or_codec_lists_the_known_ones():
    with pytest.raises(UserError, match=r"kind must be one of features, .*; found sound"):
        stream(kind="sound")
    with pytest.raises(UserError, match=r"codec must be one of fp16, .*; found gif"):
        stream(codec="gif")
    with pytest.raises(UserError, match="pitch_bins are for pitch streams"):
        stream(pitch_bins=FINE)


def test_fingerprint_includes_the_pitch_grid_unless_it_is_crepes():
    """Caches that were written before specs had a pitch grid keep their names."""
    pitch = stream(kind="pitch", codec="pitch", dim=361)
    spec = teacher(pitch)
    assert "pitch_bins" not in spec.to_json()
    assert TeacherSpec.from_json(spec.to_json()) == spec
    other = teacher(dataclasses.replace(pitch, pitch_bins=FINE))
    assert other.fingerprint != spec.fingerprint
    assert TeacherSpec.from_json(other.to_json()) == other
    assert json.loads(other.to_json())["streams"][0]["pitch_bins"] == {
        "lowest_hz": 50.0, "cents_per_bin": 10.0,
    }  # fmt: skip


def test_spec_without_a_pitch_grid_gets_crepes_grid():
    """The fields and the fingerprint are those of the embedded pitch teacher at commit 652e439."""
    times = {"start_s": 0.0, "hop_s": 0.01, "window_s": 0.064}
    written = {
        "name": "pitch", "family": "crepe", "revision": 1,
        "settings": {"model": "tiny", "half": False},
        "weights": {
            "tiny.pth": "d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432"
        },
        "sample_rate": 16000,
        "streams": [
            {"name": "salience", "kind": "pitch", "dim": 361, **times, "codec": "pitch",
             "names": [], "unit": ""},
            {"name": "f0", "kind": "curve", "dim": 2, **times, "codec": "fp16",
             "names": ["f0", "voicing"], "unit": "Hz, probability"},
        ],
        "license": "MIT", "versions": {}, "created": "", "fingerprint": "092bd2c69098",
    }  # fmt: skip
    spec = TeacherSpec.from_json(json.dumps(written))
    assert spec.key == "pitch@092bd2c69098"
    assert spec.stream("salience").pitch_bins == CREPE_BINS


@pytest.mark.parametrize(("bins", "kept"), [(CREPE_BINS, 25), (FINE, 49)])
def test_pitch_codec_keeps_240_cents_on_each_side_on_any_grid(bins: PitchBins, kept: int):
    spec = stream(kind="pitch", codec="pitch", dim=721, pitch_bins=bins)
    frames_TD = np.ones((3, 721), np.float32)
    frames_TD[:, 300] = 1.0
    frames_TD[:, :300] = frames_TD[:, 301:720] = 0.0
    frames_TD[:, 300 - kept // 2 : 300 + kept // 2 + 1] = 0.5
    frames_TD[:, 300] = 1.0
    frames_TD[:, 290 - kept // 2] = 0.2
    decoded_TD = encode(frames_TD, spec).decode()
    assert (decoded_TD[:, :-1] > 0).sum(1).tolist() == [kept] * 3
    np.testing.assert_allclose(decoded_TD[:, 300], 1.0)


def test_peak_frequency_is_the_same_on_every_grid():
    for bins, count in ((CREPE_BINS, 360), (FINE, 720)):
        cents_B = bins.cents(count) - 1200 * np.log2(440 / bins.lowest_hz)
        salience_TB = np.exp(-((cents_B / 25) ** 2) / 2)[None]
        assert bins.hertz(bins.peak(salience_TB))[0] == pytest.approx(440, rel=1e-3)
