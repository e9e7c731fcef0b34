"""Tests for RMVPE with two networks of its shape: random, or picking the loudest band.

The published weights are not in a package, so their accuracy is not tested here.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from manifests.cache.encoded_frames import encode
from manifests.errors import UserError
from manifests.streams.pitch_bins import CREPE_BINS
from teachers import registry
from teachers.adapters.rmvpe import BINS, log_mel
from teachers.protocol import Teacher
from teachers.toolkit.mel_bands import mel_bands

RATE = 16_000


class RandomNetwork(nn.Module):
    """A random network (B, 128, T) -> (B, T, 360), with a context of about a second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv1d(128, 32, 32, stride=32)
        self.up = nn.ConvTranspose1d(32, 64, 32, stride=32)
        self.out = nn.Conv1d(64 + 128, BINS, 9, padding=4)

    def forward(self, mel_BMT):
        context = self.up(self.down(mel_BMT).tanh())
        return self.out(torch.cat([context, mel_BMT], 1)).sigmoid().transpose(1, 2)


class LoudestBand(nn.Module):
    """A network whose salience of a bin is the relative level of the bin's mel band."""

    def __init__(self) -> None:
        super().__init__()
        filters_FM = mel_bands(
            sample_rate=RATE, fft=1024, bands=128, lowest_hz=30.0, highest_hz=8000.0, scale="htk",
            equal_area=True,
        )  # fmt: skip
        spectrum = np.linspace(0, RATE / 2, 513)
        hertz_B = CREPE_BINS.hertz(np.arange(BINS))
        nearest_B = [
            int(np.argmax([np.interp(hertz, spectrum, band) for band in filters_FM.T]))
            for hertz in hertz_B
        ]
        self.register_buffer("bands", torch.tensor(nearest_B))

    def forward(self, mel_BMT):
        louder = mel_BMT - mel_BMT.max(1, keepdim=True).values
        return (4 * louder[:, self.bands] + 3).sigmoid().transpose(1, 2)


def export_onnx(network: nn.Module, path: Path, *, frames: str = "frames") -> Path:
    """Exports a network with the names and the shapes of `rmvpe.onnx`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network.eval(), (torch.zeros(1, 128, 64),), str(path), input_names=["input"],
            output_names=["output"], dynamic_axes={"input": {2: frames}, "output": {1: frames}},
            dynamo=False,
        )  # fmt: skip
    return path


def load(path: Path) -> Teacher:
    teacher = registry.make("pitch", "rmvpe", {"model": str(path)})
    teacher.load(device="cpu", num_threads=1)
    return teacher


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load(export_onnx(RandomNetwork(), tmp_path_factory.mktemp("rmvpe") / "rmvpe.onnx"))


@pytest.fixture(scope="module")
def loudest(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load(export_onnx(LoudestBand(), tmp_path_factory.mktemp("rmvpe") / "loudest.onnx"))


def tone(hertz: np.ndarray | float, seconds: float) -> np.ndarray:
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hertz, round(seconds * RATE))) / RATE
    return (0.3 * np.sin(phase)).astype(np.float32)


@pytest.mark.parametrize("hertz", [110.0, 220.0, 440.0, 880.0])
def test_f0_of_a_tone_is_the_pitch_of_its_band(loudest: Teacher, hertz: float):
    frames = loudest.extract([tone(hertz, 1.0)])[0].frames
    f0_T, voicing_T = frames["f0"][10:-10].T
    # Bands are at least 26 Hz wide.
    assert np.abs(f0_T - hertz).max() < 30
    assert voicing_T.min() > 0.9
    assert np.array_equal(frames["salience"][:, -1], frames["f0"][:, 1])


def test_f0_changes_when_the_tone_changes(loudest: Teacher):
    time = np.arange(RATE) / RATE
    delays = []
    for change in np.linspace(0.5, 0.51, 5):
        wave = tone(np.where(time < change, 300.0, 600.0), 1.0)
        salience_TB = loudest.extract([wave])[0].frames["salience"]
        low, high = (
            round(1200 * np.log2(hertz / CREPE_BINS.lowest_hz) / 20) for hertz in (300, 600)
        )
        lead_T = salience_TB[:, high] - salience_TB[:, low]
        first = int(np.flatnonzero(lead_T > 0)[0])
        share = lead_T[first] / (lead_T[first] - lead_T[first - 1])
        delays.append(0.01 * (first - share) - change)
    assert abs(np.mean(delays)) < 0.005
    assert np.abs(delays).max() < 0.01


def test_short_clip_is_padded_to_a_multiple_of_32_frames(random: Teacher):
    """The original pads the spectrogram with zeros to a multiple of 32 frames as well."""
    wave = tone(200.0, 1.234)
    (targets,) = random.extract([wave])
    mel = log_mel(wave)
    assert mel.shape == (128, 124)
    with torch.inference_mode():
        expected = RandomNetwork()(torch.from_numpy(np.pad(mel, ((0, 0), (0, 4))))[None])[0].numpy()
    assert targets.frames["salience"].shape == (124, 361)
    assert np.abs(targets.frames["salience"][:, :-1] - expected[:124]).max() < 1e-5


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 5000])
def test_clips_of_any_length_give_frames_that_can_be_encoded(random: Teacher, num_samples: int):
    wave = tone(200.0, 1.0)[:num_samples]
    for targets in random.extract([wave, np.zeros(num_samples, np.float32)]):
        for stream in random.spec().streams:
            frames_TD = targets.frames[stream.name]
            assert frames_TD.shape == (-(-num_samples // 160), stream.dim)
            assert frames_TD.dtype == np.float32
            encode(frames_TD, stream)


def test_silence_is_unvoiced_and_clips_are_independent(random: Teacher):
    waves = [tone(200.0, 0.5), np.zeros(RATE, np.float32), tone(250.0, 3.0)]
    together = random.extract(waves)
    assert together[1].frames["salience"].max() == 0
    for wave, targets in zip(waves, together, strict=True):
        (single,) = random.extract([wave])
        assert np.array_equal(single.frames["salience"], targets.frames["salience"])


def test_long_clip_gives_the_frames_of_its_parts(random: Teacher):
    time = np.arange(70 * RATE) / RATE
    wave = tone(200 + 40 * np.sin(time), 70)
    begin = 32 * 60
    (whole,), (part,) = random.extract([wave]), random.extract([wave[begin * 160 :]])
    first, second = whole.frames["salience"][begin:][100:-100], part.frames["salience"][100:-100]
    assert np.abs(first - second).mean() < 0.02


def test_other_files_raise_an_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"must be RMVPE's \.onnx file"):
        registry.make("pitch", "rmvpe", {})
    path = export_onnx(nn.Conv1d(128, 12, 1), tmp_path / "other.onnx")
    with pytest.raises(UserError, match="RMVPE maps a spectrogram of 128 bands to 360"):
        load(path)
