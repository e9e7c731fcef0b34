"""Tests for Beat This!: parity with the original, the spectrogram, batches, windows, times."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests.cache.encoded_frames import encode
from manifests.errors import UserError
from teachers import registry
from teachers.adapters.beat_this import BORDER, HOP, beat_times, log_mel
from teachers.protocol import Teacher
from teachers.toolkit.beat_this_network import BeatThis
from tests.teachers.checkpoints import sound

RATE = 22_050
SMALL = {"transformer_dim": 64, "n_layers": 2}


def make_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns weights from a formula, which were also loaded into the original."""
    weights = {}
    for row, (name, weight) in enumerate(sorted(state.items())):
        if not weight.is_floating_point() or name.endswith("freqs"):
            weights[name] = weight
            continue
        count = torch.arange(weight.numel(), dtype=torch.float64)
        wave = torch.sin(count**1.5 * (0.37 + 0.011 * row)).view(weight.shape)
        scaled = 2.0 * wave / max(1, weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.1 * wave
        ones = ("gamma", "running_var", "bn1d.weight", "bn2d.weight", "norm.weight")
        weights[name] = (scaled + (1 if name.endswith(ones) else 0)).float()
    return weights


def save_checkpoint(path: Path, *, prefix: str = "model.", **extra: Any) -> Path:
    """Saves a checkpoint in the format of the authors' training code."""
    network = BeatThis(**SMALL)
    state = {
        f"{prefix}{name}": weight for name, weight in make_weights(network.state_dict()).items()
    }
    hyper = {**SMALL, "head_dim": 32, "fps": 50, "dropout": {"frontend": 0.1}}
    torch.save({"state_dict": state, "hyper_parameters": hyper, "epoch": 99, **extra}, path)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("beats") / "tiny.ckpt")


def load(path: Path, **settings: Any) -> Teacher:
    teacher = registry.make(
        "beats", "beat_this", {"model": str(path), "features": True, **settings}
    )
    teacher.load(device="cpu", num_threads=1)
    return teacher


@pytest.mark.parametrize(
    ("shape", "digest"),
    [
        ({}, "e0b391ada238fddbd76b1e79bf1c64ad2ea0ce91be82c06e3ced35a6a5f175ee"),
        (
            {"transformer_dim": 128},
            "5ac4d8ef139daa85bed4c946b5b162a3bc30c1c3d6bd500dea27a1fc0a1cdf08",
        ),
        (
            {"sum_head": False, "partial_transformers": False, "n_layers": 2},
            "1a3b4498ed2a46fd8c46189f37a5b761382eff08d8f5df5e7b03245c85616939",
        ),
    ],
)
def test_weights_have_the_names_and_shapes_of_the_original(shape: dict[str, Any], digest: str):
    """The digests are those of beat-this 1.1.0: the large and small models, and one without the
    optional parts."""
    state = BeatThis(**shape).state_dict()
    layout = "\n".join(f"{name} {tuple(weight.shape)}" for name, weight in sorted(state.items()))
    assert hashlib.sha256(layout.encode()).hexdigest() == digest


def test_logits_match_the_original():
    """Expected values are the output of beat-this 1.1.0 for the same weights and input."""
    network = BeatThis(**SMALL).eval()
    network.load_state_dict(make_weights(network.state_dict()))
    count = torch.arange(2 * 40 * 128, dtype=torch.float64).view(2, 40, 128)
    spectrogram = 3 * torch.sin(count**1.5 * 0.01).abs().float()
    with torch.inference_mode():
        logits, _ = network(spectrogram, [40, 40])
    expected = [
        [-0.38689, 1.06178, 1.08317, 0.62505, 1.02979],
        [0.84849, 1.82467, 1.88862, 1.06901, 2.14265],
    ]
    assert np.abs(logits[1, ::8].T.numpy() - np.array(expected)).max() < 1e-3


def test_log_mel_of_a_tone_peaks_in_its_band():
    time = np.arange(RATE) / RATE
    wave = np.pad(np.sin(2 * np.pi * 1000 * time), 512, mode="reflect").astype(np.float32)
    spectrogram = log_mel(torch.from_numpy(wave)[None], 51)[0]
    assert spectrogram.shape == (51, 128)
    # 1 kHz is 15 mel; bands are 49.4 / 129 apart from 0.45 on, and band 0 peaks one step up.
    assert abs(int(spectrogram[25].argmax()) - 37) <= 1
    # A sine's magnitude in a Hann window is a quarter of its samples, divided by their root.
    assert spectrogram[25].max() == pytest.approx(np.log1p(1000 * 1024 / 4 / 32), abs=0.3)


@pytest.mark.parametrize("num_samples", [1, 300, 440, 441, 442, 30_000])
def test_clips_of_any_length_give_frames_that_can_be_encoded(path: Path, num_samples: int):
    teacher = load(path)
    wave = sound(2, RATE)[:num_samples]
    for targets in teacher.extract([wave, np.zeros(num_samples, np.float32)]):
        for stream in teacher.spec().streams:
            frames_TD = targets.frames[stream.name]
            assert frames_TD.shape == (-(-num_samples // HOP), stream.dim)
            encode(frames_TD, stream)


def test_targets_do_not_depend_on_other_clips_of_the_batch(path: Path):
    teacher = load(path)
    waves = [sound(seconds, RATE, seed) for seed, seconds in enumerate((0.4, 3.1, 1.7, 2.9))]
    for wave, targets in zip(waves, teacher.extract(waves), strict=True):
        (single,) = teacher.extract([wave])
        assert targets.metadata == single.metadata
        for stream, frames_TD in targets.frames.items():
            scale = np.abs(single.frames[stream]).max()
            assert np.abs(frames_TD - single.frames[stream]).max() < 1e-4 * scale


def test_short_clip_is_one_window_with_zero_borders(path: Path):
    """Like the authors' `split_piece`: six frames of zeros, the clip, six frames of zeros."""
    teacher = load(path)
    wave = sound(2.0, RATE)
    (targets,) = teacher.extract([wave])
    padded = torch.from_numpy(np.pad(wave, 512, mode="reflect"))[None]
    spectrogram = log_mel(padded, len(wave) // HOP + 1)
    bordered = torch.nn.functional.pad(spectrogram, (0, 0, BORDER, BORDER))
    with torch.inference_mode():
        logits, _ = teacher._network(bordered, [bordered.shape[1]])  # pyright: ignore
    expected = logits[0, BORDER:-BORDER].sigmoid().numpy()
    assert np.abs(targets.frames["posteriors"] - expected[:100]).max() < 1e-5


def test_bfloat16_is_close_to_float32(path: Path):
    wave = sound(2, RATE)
    (full,), (half,) = (
        load(path, dtype=dtype).extract([wave]) for dtype in ("float32", "bfloat16")
    )
    for stream, expected_TD in full.frames.items():
        error = np.sqrt(np.square(half.frames[stream] - expected_TD).mean())
        assert error < 0.1 * np.sqrt(np.square(expected_TD).mean())


def test_long_clip_has_no_jump_between_windows(path: Path):
    (targets,) = load(path).extract([sound(75, RATE)])
    frames_TD = targets.frames["frames"]
    assert len(frames_TD) == 75 * 50
    steps_T = np.linalg.norm(np.diff(frames_TD, axis=0), axis=1)
    assert steps_T.max() < 4 * np.percentile(steps_T, 95)


def test_frame_times_match_the_position_of_a_click(path: Path):
    """With disabled attention layers, a frame depends on four frames to either side."""
    teacher = load(path)
    for name, weight in teacher._network.named_parameters():  # pyright: ignore
        if name.endswith(("to_out.0.weight", "net.4.weight", "net.4.bias")):
            torch.nn.init.zeros_(weight)
    background = 0.01 * sound(4, RATE)
    delays = []
    for index in (2.0, 2.005, 2.013):
        clicked = background.copy()
        clicked[round(index * RATE) - 32 :][:64] += 0.5
        before, after = (
            teacher.extract([wave])[0].frames["frames"] for wave in (background, clicked)
        )
        change_T = np.square(after - before).sum(1)
        times_T = HOP / RATE * np.arange(len(change_T))
        delays.append((times_T * change_T).sum() / change_T.sum() - index)
    assert np.abs(delays).max() < 0.02


def test_beat_times_are_the_peaks_of_the_posteriors():
    posteriors_TD = np.full((200, 2), 0.05)
    for frame in (25, 50, 75, 100):
        posteriors_TD[frame - 2 : frame + 3, 0] = [0.3, 0.7, 0.9, 0.7, 0.3]
    posteriors_TD[150:152, 0] = 0.8  # one beat over two frames
    posteriors_TD[51, 1] = 0.8  # a frame late
    posteriors_TD[120, 1] = 0.4
    assert beat_times(posteriors_TD) == {
        "beats": [0.5, 1.0, 1.5, 2.0, 3.01], "downbeats": [1.0],
    }  # fmt: skip
    assert beat_times(np.zeros((10, 2))) == {"beats": [], "downbeats": []}


def test_compiled_checkpoint_loads(tmp_path: Path, path: Path):
    other = save_checkpoint(tmp_path / "compiled.ckpt", prefix="model._orig_mod.")
    wave = sound(1, RATE)
    first, second = (load(each).extract([wave])[0].frames["frames"] for each in (path, other))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "hook": Path}, "holds more than tensors"),
        ([1, 2], "has no state_dict"),
        ({"state_dict": {"model.other": torch.zeros(1)}}, "is not a checkpoint of Beat This!"),
    ],
)
def test_other_files_raise_an_error(tmp_path: Path, content: Any, message: str):
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load(path, features=False)
    with pytest.raises(UserError, match=r"must be a \.ckpt file"):
        load(tmp_path / "none.ckpt")


def test_fingerprint_depends_on_settings_and_not_on_runtime_options(path: Path):
    def fingerprint(**changes: Any) -> str:
        return registry.make(
            "beats", "beat_this", {"model": str(path), **changes}
        ).spec().fingerprint  # fmt: skip

    assert fingerprint(batch_seconds=7.0) == fingerprint()
    assert fingerprint(frame_rate=25.0) != fingerprint()
