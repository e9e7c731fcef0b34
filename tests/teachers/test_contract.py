"""Tests every embedded teacher on synthetic sound: shapes, grids, batches, long clips."""

from __future__ import annotations

import json

import numpy as np
import pytest

from manifests.cache.encoded_frames import encode
from manifests.cache.stream_sums import Sums
from manifests.streams.codecs import CODECS
from manifests.streams.specs import TeacherSpec
from teachers import registry
from teachers.protocol import Targets
from teachers.toolkit.frame_grid import num_frames
from tests.teachers.conftest import Load

NAMES = list(registry.preset("embedded"))
each_teacher = pytest.mark.parametrize("name", NAMES)


def voice(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Returns gliding harmonics of changing loudness with a little noise."""
    time = np.arange(round(seconds * rate)) / rate
    hertz = 150 + 60 * np.sin(2 * np.pi * 0.7 * time) + 30 * np.sin(2 * np.pi * 2.3 * time)
    phase = 2 * np.pi * np.cumsum(hertz) / rate
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * 1.7 * time)
    tone = sum(np.sin(n * phase) / n for n in range(1, 12)) * swell
    noise = np.random.default_rng(seed).normal(size=len(time))
    return (0.1 * tone + 0.002 * noise).astype(np.float32)


def check_frames(targets: Targets, spec: TeacherSpec, num_samples: int) -> None:
    assert set(targets.frames) == {stream.name for stream in spec.streams}
    for stream in spec.streams:
        frames_TD = targets.frames[stream.name]
        count = num_frames(
            num_samples, spec.sample_rate, start_s=stream.start_s, hop_s=stream.hop_s
        )
        assert frames_TD.shape == (count, stream.dim)
        assert frames_TD.dtype == np.float32
        assert np.isfinite(frames_TD).all()
        if stream.kind in ("multilabel", "pitch"):
            assert frames_TD.min() >= 0
            assert frames_TD.max() <= 1
    json.dumps(targets.metadata)


@each_teacher
@pytest.mark.parametrize("num_samples", [1, 50, 400, 1_600, 20_001])
def test_short_and_silent_clips_give_valid_frames(load: Load, name: str, num_samples: int):
    teacher = load(name)
    spec = teacher.spec()
    noise = voice(2, spec.sample_rate)[:num_samples]
    for targets in teacher.extract([noise, np.zeros(num_samples, np.float32)]):
        check_frames(targets, spec, num_samples)


def without_confidence(metadata: dict) -> dict:
    """Returns metadata without the decoder's confidence, whose last digit depends on rounding."""
    return {key: value for key, value in metadata.items() if key != "confidence"}


@each_teacher
def test_targets_do_not_depend_on_other_clips_of_the_batch(load: Load, name: str):
    teacher = load(name)
    rate = teacher.spec().sample_rate
    waves = [voice(seconds, rate, seed) for seed, seconds in enumerate((0.4, 3.1, 1.7))]
    together = teacher.extract(waves)
    for wave, targets in zip(waves, together, strict=True):
        (single,) = teacher.extract([wave])
        for stream, frames_TD in targets.frames.items():
            scale = np.abs(single.frames[stream]).max()
            assert np.abs(frames_TD - single.frames[stream]).max() < 1e-3 * scale
        assert without_confidence(targets.metadata) == without_confidence(single.metadata)
        numbers = [each.metadata.get("confidence", {}) for each in (targets, single)]
        for key, value in numbers[1].items():
            same = pytest.approx(value, abs=2e-3) if isinstance(value, float) else value
            assert numbers[0][key] == same


@pytest.mark.parametrize(
    ("name", "seconds", "begin", "edge", "tolerance"),
    [
        ("emotion", 12, 4.0, 1.0, 0),
        ("pitch", 12, 4.0, 1.0, 0),
        ("sound_event", 12, 0.48 * 8, 1.0, 0),
        # Filters of low keys exceed the overlap, and levels are relative to a window's loudest.
        ("music", 24, 256 * 500 / 22_050, 1.0, 0.003),
        # The third window begins here: elsewhere, frames have another context.
        ("asr", 70, 50.0, 2.6, 1e-3),
    ],
)
def test_long_clip_gives_the_frames_of_its_parts(
    load: Load, name: str, seconds: float, begin: float, edge: float, tolerance: float
):
    teacher = load(name)
    spec = teacher.spec()
    wave = voice(seconds, spec.sample_rate)
    part = wave[round(begin * spec.sample_rate) :]
    (whole,), (single,) = teacher.extract([wave]), teacher.extract([part])
    check_frames(whole, spec, len(wave))
    for stream in spec.streams:
        skip, shift = round(edge / stream.hop_s), round(begin / stream.hop_s)
        expected = single.frames[stream.name]
        inner = slice(skip, len(expected) - skip)
        result = whole.frames[stream.name][shift : shift + len(expected)]
        assert np.abs(result[inner] - expected[inner]).mean() <= tolerance


@each_teacher
def test_codec_loss_of_each_stream_is_below_its_limit(load: Load, name: str):
    teacher = load(name)
    spec = teacher.spec()
    (targets,) = teacher.extract([voice(3, spec.sample_rate)])
    for stream in spec.streams:
        kept = encode(targets.frames[stream.name], stream)
        loss = Sums.from_frames(targets.frames[stream.name], kept).codec_loss(stream)
        assert loss < CODECS[stream.codec].max_loss
