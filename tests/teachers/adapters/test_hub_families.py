"""Tests for families of hub checkpoints on tiny models: grids, batches, padding, windows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from manifests.cache.encoded_frames import encode
from manifests.errors import UserError
from manifests.packaged_weights import sha256
from teachers import registry
from teachers.protocol import Teacher
from teachers.toolkit.batching import batches
from teachers.toolkit.windowing import Grid, cut, join, pooled
from tests.teachers import checkpoints
from tests.teachers.checkpoints import MAKERS, sound

each_family = pytest.mark.parametrize("name", list(MAKERS))
Load = Callable[..., Teacher]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folder of each maker."""
    base = tmp_path_factory.mktemp("checkpoints")
    return {name: make(base / name.replace(" ", "-")) for name, (make, *_) in MAKERS.items()}


@pytest.fixture(scope="session")
def load(folders: dict[str, Path]) -> Load:
    """`load(name, **settings)` returns a loaded family with its tiny checkpoint and one thread."""
    loaded_teachers: dict[str, Teacher] = {}

    def loaded(name: str, **settings: Any) -> Teacher:
        key = json.dumps([name, settings])
        if key not in loaded_teachers:
            _, family, own_settings = MAKERS[name]
            model = {"model": str(folders[name])}
            loaded_teachers[key] = registry.make(
                name.split()[0], family, {**model, **own_settings, **settings}
            )
            loaded_teachers[key].load(device="cpu", num_threads=1)
        return loaded_teachers[key]

    return loaded


def standardised_error(result_TD: np.ndarray, expected_TD: np.ndarray) -> float:
    """Returns the RMS difference divided by the standard deviation of the expected values."""
    return float(np.sqrt(np.square(result_TD - expected_TD).mean()) / expected_TD.std())


@each_family
@pytest.mark.parametrize("num_samples", [1, 399, 400, 20_001])
def test_clips_of_any_length_give_frames_that_can_be_encoded(
    load: Load, name: str, num_samples: int
):
    teacher = load(name)
    spec = teacher.spec()
    wave = sound(2, spec.sample_rate)[:num_samples]
    for targets in teacher.extract([wave, np.zeros(num_samples, np.float32)]):
        for stream in spec.streams:
            frames_TD = targets.frames[stream.name]
            assert frames_TD.dtype == np.float32
            last = stream.start_s + (len(frames_TD) - 1) * stream.hop_s
            seconds = num_samples / spec.sample_rate
            assert len(frames_TD) == 1 or abs(last - seconds) < 2 * stream.hop_s + stream.window_s
            encode(frames_TD, stream)
            if stream.kind == "distribution":
                assert np.allclose(frames_TD.sum(1), 1, atol=1e-3)
        json.dumps(targets.metadata)


@each_family
def test_targets_do_not_depend_on_other_clips_of_the_batch(load: Load, name: str):
    teacher = load(name)
    rate = teacher.spec().sample_rate
    waves = [sound(seconds, rate, seed) for seed, seconds in enumerate((0.4, 3.1, 1.7, 2.9))]
    for wave, targets in zip(waves, teacher.extract(waves), strict=True):
        (single,) = teacher.extract([wave])
        for stream, frames_TD in targets.frames.items():
            scale = np.abs(single.frames[stream]).max()
            assert np.abs(frames_TD - single.frames[stream]).max() < 1e-4 * scale
        assert targets.metadata == single.metadata


@pytest.mark.parametrize(
    ("name", "stable", "layer"),
    [(kind, stable, layer) for kind in ("wav2vec2", "hubert", "wavlm")
     for stable, layer in ((False, -1), (False, 1), (True, -1))],
)  # fmt: skip
def test_padded_waveforms_match_unpadded_states_of_transformers(
    tmp_path: Path, name: str, stable: bool, layer: int
):
    folder = getattr(checkpoints, name)(tmp_path, stable=stable)
    teacher = registry.make("t", f"transformers:{folder}", {"layer": layer})
    teacher.load(device="cpu", num_threads=1)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    waves = [sound(seconds, 16_000, seed) for seed, seconds in enumerate((0.5, 2.0, 1.1))]
    for wave, targets in zip(waves, teacher.extract(waves), strict=True):
        inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt").input_values
        with torch.inference_mode():
            expected = model(inputs, output_hidden_states=True).hidden_states[layer][0].numpy()
        assert targets.frames["frames"].shape == expected.shape
        assert np.abs(targets.frames["frames"] - expected).max() < 1e-4


def test_log_mels_on_the_device_match_the_feature_extractor():
    from teachers.toolkit.mel import KaldiMel

    extractor = transformers.ASTFeatureExtractor()
    mel = KaldiMel(extractor, torch.device("cpu"))
    waves = [sound(seconds, 16_000) for seconds in (0.025, 3.3, 10.0, 11.0)]
    expected = extractor(waves, sampling_rate=16_000, return_tensors="pt").input_values
    assert torch.abs(mel(waves) - expected).max() < 2e-3
    assert torch.abs(mel(waves) - expected).mean() < 1e-5


@pytest.mark.parametrize("fused", [False, True])
def test_clap_frames_match_transformers(tmp_path: Path, fused: bool):
    folder = checkpoints.clap(tmp_path, fused=fused)
    teacher = registry.make("t", "clap", {"model": str(folder), "labels": ["violin", "drums"]})
    teacher.load(device="cpu", num_threads=1)
    wave = sound(10, 48_000)
    (targets,) = teacher.extract([wave])
    model = transformers.ClapModel.from_pretrained(folder).eval()
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
    inputs = extractor(wave, sampling_rate=48_000, return_tensors="pt").input_features
    with torch.inference_mode():
        result = model.audio_model(inputs, is_longer=torch.zeros(1, 1, dtype=torch.bool))
    expected = result.last_hidden_state.mean(2)[0].T.numpy()
    assert np.abs(targets.frames["frames"] - expected).max() < 1e-5
    assert np.allclose(targets.frames["frames"].mean(0), result.pooler_output[0], atol=1e-5)


def test_posteriors_of_a_window_match_the_transformers_pipeline(
    load: Load, folders: dict[str, Path]
):
    """The pipeline is run on the samples of the second window."""
    wave = sound(6, 16_000)
    (targets,) = load("emotion").extract([wave])
    pipeline = transformers.pipeline("audio-classification", model=str(folders["emotion"]))
    scores = {each["label"]: each["score"] for each in pipeline(wave[16_000 : 5 * 16_000])}
    names = load("emotion").spec().stream("posteriors").names
    assert np.allclose(targets.frames["posteriors"][1], [scores[name] for name in names], atol=1e-5)
    assert load("emotion").spec().stream("posteriors").start_s == 2.0


# The networks are random and have a global context, so frames of two windows differ a lot. The test
# bounds the step at a join by the steps between other neighbouring frames.
@pytest.mark.parametrize(
    ("name", "settings", "seconds", "begin"),
    [
        ("wav2vec2", {"window_s": 6.0, "overlap_s": 2.0}, 20, 8.0),
        ("wavlm", {"window_s": 6.0, "overlap_s": 2.0, "frame_rate": 0.0}, 20, 8.0),
        ("mert", {"window_s": 6.0, "overlap_s": 2.0}, 20, 8.0),
        ("ctc", {"window_s": 6.0, "overlap_s": 2.0}, 20, 8.0),
        ("parakeet", {"window_s": 6.4, "overlap_s": 1.6}, 20, 9.6),
        ("speaker frames", {"window_s": 6.0, "overlap_s": 2.0}, 20, 8.0),
        ("ast encoder", {}, 26, 10.0),
        ("emotion", {}, 20, 8.0),
        ("clap", {}, 30, 15_015 * 24 / 48_000),
        ("pe_audio_frame", {"window_s": 6.0, "overlap_s": 2.0}, 20, 8.0),
        ("whisper", {"transcribe": False}, 70, 25.0),
    ],
)
def test_long_clip_matches_its_parts_without_jumps_between_windows(
    load: Load, name: str, settings: dict[str, Any], seconds: float, begin: float
):
    teacher = load(name, **settings)
    spec = teacher.spec()
    wave = sound(seconds, spec.sample_rate)
    stream = next(s for s in spec.streams if s.kind == "features" or s.name == "posteriors")
    (whole,) = teacher.extract([wave])
    (part,) = teacher.extract([wave[round(begin * spec.sample_rate) :]])
    frames_TD, expected_TD = whole.frames[stream.name], part.frames[stream.name]
    shift, skip = round(begin / stream.hop_s), round(1.5 / stream.hop_s)
    result = frames_TD[shift : shift + len(expected_TD)][skip:-skip]
    assert standardised_error(result, expected_TD[: len(result) + 2 * skip][skip:-skip]) < 0.35
    steps_T = np.linalg.norm(np.diff(frames_TD, axis=0), axis=1)
    assert steps_T.max() < 4 * np.percentile(steps_T, 95)


@each_family
def test_bfloat16_is_close_to_float32(load: Load, name: str):
    wave = sound(2, load(name).spec().sample_rate)
    (full,) = load(name, **TEXTLESS.get(name, {})).extract([wave])
    # On CPUs with AMX, oneDNN (torch 2.13) computes bfloat16 convolutions of two channels per group
    # wrongly; those of real checkpoints, of 48 channels per group, are right.
    with torch.backends.mkldnn.flags(enabled=False):
        (half,) = load(name, dtype="bfloat16", **TEXTLESS.get(name, {})).extract([wave])
    for stream in load(name).spec().streams:
        expected_TD = full.frames[stream.name]
        error = np.sqrt(np.square(half.frames[stream.name] - expected_TD).mean())
        assert error < 0.05 * np.sqrt(np.square(expected_TD).mean())


TEXTLESS = {"whisper": {"transcribe": False}}


@each_family
def test_fingerprint_depends_on_settings_and_not_on_runtime_options(
    folders: dict[str, Path], name: str
):
    _, family, own_settings = MAKERS[name]
    settings = {"model": str(folders[name]), **own_settings}

    def fingerprint(**changes: Any) -> str:
        return registry.make("t", family, {**settings, **changes}).spec().fingerprint

    assert fingerprint(batch_seconds=7.0, license="MIT") == fingerprint()
    assert fingerprint(dtype="float16") != fingerprint()
    spec = registry.make("t", family, settings).spec()
    assert spec.license == "apache-2.0"
    assert "model.safetensors" in spec.weights
    again = registry.make("t", spec.family, json.loads(json.dumps(spec.settings))).spec()
    assert again.fingerprint == spec.fingerprint


def test_spec_of_hub_teachers_is_made_without_torch(folders: dict[str, Path]):
    import subprocess
    import sys

    requested = {name: [family, {"model": str(folders[name]), **own_settings}]
              for name, (_, family, own_settings) in MAKERS.items()}  # fmt: skip
    code = (
        "import json, sys; from teachers import registry\n"
        f"for name, (family, settings) in json.loads({json.dumps(requested)!r}).items():\n"
        "    registry.make(name, family, settings).spec()\n"
        "print(*{'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("wav2vec2", {"frame_rate": 12.0}, "must divide the native 50"),
        ("wav2vec2", {"layer": 9}, "has no layer 9"),
        ("ast", {"window_s": 12.0}, "window_s must be at most 10.175"),
        ("ast", {"step_s": 0.0}, "step_s must be in"),
        ("emotion", {"window_s": 0.04}, "window_s must be at least 0.05"),
        ("clap", {"prompt": "music"}, "needs a {}"),
        ("whisper", {"silence_step": 0}, r"in \[1, 16\]"),
        ("whisper", {"language": "xx"}, "language"),
    ],
)
def test_invalid_settings_raise_an_error(
    folders: dict[str, Path], name: str, settings: dict[str, Any], message: str
):
    _, family, own_settings = MAKERS[name]
    with pytest.raises(UserError, match=message):
        registry.make("t", family, {"model": str(folders[name]), **own_settings, **settings}).load(
            device="cpu", num_threads=1
        )


def test_checkpoint_of_another_model_raises_an_error(folders: dict[str, Path]):
    teacher = registry.make("t", "ctc", {"model": str(folders["hubert"])})
    with pytest.raises(UserError, match="has no weights for lm_head"):
        teacher.load(device="cpu", num_threads=1)


def test_mert_with_custom_code_raises_an_error_without_trust(tmp_path: Path):
    folder = checkpoints.mert(tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"feature_extractor_cqt": True}))
    with pytest.raises(UserError, match="trust_remote_code"):
        registry.make("t", "mert", {"model": str(folder)}).load(device="cpu", num_threads=1)


@pytest.mark.parametrize(("rate", "frames"), [(16_000, 50), (24_000, 75)])
def test_mert_has_the_sample_rate_of_its_checkpoint(tmp_path: Path, rate: int, frames: int):
    """MERT-v0-public expects 16 kHz, MERT-v1 24 kHz."""
    folder = checkpoints.mert(tmp_path, rate=rate)
    teacher = registry.make("t", "mert", {"model": str(folder), "layer": 2})
    teacher.load(device="cpu", num_threads=1)
    spec = teacher.spec()
    assert (spec.sample_rate, spec.stream("frames").frame_rate) == (rate, frames)
    assert len(teacher.extract([sound(2, rate)])[0].frames["frames"]) == 2 * frames - 1


def test_remote_code_runs_only_when_trusted(tmp_path: Path):
    folder = checkpoints.mert(tmp_path)
    (folder / "modeling_MERT.py").write_text(
        "from transformers import HubertConfig, HubertModel\n"
        "class MERTConfig(HubertConfig):\n    model_type = 'mert_model'\n"
        "class MERTModel(HubertModel):\n    config_class = MERTConfig\n"
    )
    path = folder / "config.json"
    classes = {"AutoConfig": "modeling_MERT.MERTConfig", "AutoModel": "modeling_MERT.MERTModel"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": classes}))
    targets = []
    for trusted in (False, True):
        teacher = registry.make(
            "t", "mert", {"model": str(folder), "layer": 2, "trust_remote_code": trusted}
        )
        teacher.load(device="cpu", num_threads=1)
        targets.append(teacher.extract([sound(1, 24_000)])[0].frames["frames"])
    assert np.abs(targets[0] - targets[1]).max() < 1e-5


def test_tokenizer_files_and_trusted_code_change_the_fingerprint(tmp_path: Path):
    """Tokenizer files and executed Python files count like weights."""
    folder = checkpoints.mert(tmp_path)
    code = folder / "modeling_MERT.py"
    code.write_text("A = 1\n")

    def fingerprint(*, trusted: bool) -> str:
        settings = {"model": str(folder), "layer": 2, "trust_remote_code": trusted}
        sha256.cache_clear()  # Another build is another process.
        return registry.make("t", "mert", settings).spec().fingerprint

    for trusted in (False, True):
        seen = {fingerprint(trusted=trusted)}
        for name in ("merges.txt", "tokenizer_config.json", "spiece.model"):
            (folder / name).write_text("first")
            seen.add(fingerprint(trusted=trusted))
            (folder / name).write_text("second")
            seen.add(fingerprint(trusted=trusted))
        assert len(seen) == 7, "a tokenizer's file does not change the fingerprint"
        for name in ("merges.txt", "tokenizer_config.json", "spiece.model"):
            (folder / name).unlink()
    untrusted, trusted = fingerprint(trusted=False), fingerprint(trusted=True)
    code.write_text("A = 2\n")
    (folder / "layers").mkdir()
    assert fingerprint(trusted=False) == untrusted, "code that is not run changed the fingerprint"
    changed = fingerprint(trusted=True)
    (folder / "layers" / "deep.py").write_text("B = 1\n")
    assert len({trusted, changed, fingerprint(trusted=True)}) == 3


def test_encoder_with_an_unknown_grid_requires_hop_s(tmp_path: Path):
    torch.manual_seed(0)
    config = transformers.Wav2Vec2BertConfig(
        **checkpoints.SMALL, feature_projection_input_dim=160, conv_depthwise_kernel_size=3
    )
    extractor = transformers.SeamlessM4TFeatureExtractor()
    folder = checkpoints.save(tmp_path, transformers.Wav2Vec2BertModel(config), extractor)
    family = f"transformers:{folder}"
    with pytest.raises(UserError, match="set hop_s"):
        registry.make("t", family, {})
    with pytest.raises(UserError, match=r"set hop_s to 0\.02"):
        registry.make("t", family, {"hop_s": 0.04}).load(device="cpu", num_threads=1)
    teacher = registry.make("t", family, {"hop_s": 0.02})
    teacher.load(device="cpu", num_threads=1)
    waves = [sound(seconds, 16_000) for seconds in (1.0, 2.5)]
    for wave, targets in zip(waves, teacher.extract(waves), strict=True):
        (single,) = teacher.extract([wave])
        assert np.abs(targets.frames["frames"] - single.frames["frames"]).max() < 1e-4
        assert abs(len(targets.frames["frames"]) - len(wave) / 320) <= 1


def test_windows_start_on_the_frame_grid():
    """Windows start at multiples of the hop, and the last one ends with the clip."""
    grid = Grid(sample_rate=16_000, hop=320, field=400, centre=200)
    wave = np.zeros(20_000, np.float32)
    (whole,) = cut([wave], grid, size=1000, step=900)
    assert len(whole.samples) == 20_000
    cut_windows = cut([wave], grid, size=20, step=15)
    assert cut_windows[-1].first + 20 == grid.count(20_000)
    assert {grid.count(len(piece.samples)) for piece in cut_windows} == {20}
    assert all(0 <= piece.first * 320 + len(piece.samples) <= 20_000 for piece in cut_windows)


def test_join_of_overlapping_ramps_gives_the_ramp():
    frames_TD = np.linspace(0, 1, 100, dtype=np.float32)[:, None]
    for size, step in ((40, 30), (40, 10), (60, 50)):
        grid = Grid(sample_rate=100, hop=1, field=1, centre=0)
        cut_windows = cut([frames_TD[:, 0]], grid, size=size, step=step)
        joined = join([(piece.first, piece.samples[:, None]) for piece in cut_windows])
        assert np.allclose(joined, frames_TD, atol=1e-6)
        # A constant offset of a window is faded instead of causing a step.
        shifted = [
            (p.first, p.samples[:, None] + (index % 2)) for index, p in enumerate(cut_windows)
        ]
        assert np.abs(np.diff(join(shifted)[:, 0])).max() <= 0.01 + 2 / (size - step) + 1e-3


def test_pooling_averages_frames_and_adapts_the_grid():
    frames_TD = np.arange(10, dtype=np.float32)[:, None]
    assert pooled(frames_TD, 4)[:, 0].tolist() == [1.5, 5.5, 8.5]
    assert pooled(frames_TD[:9], 4)[:, 0].tolist() == [1.5, 5.5]
    grid = Grid(sample_rate=100, hop=2, field=4, centre=2)
    stream = grid.stream("x", "features", 1, "int8", pool=4)
    assert (stream.start_s, stream.hop_s) == (0.05, 0.08)


def test_batches_group_similar_lengths_within_the_budget():
    lengths = [5, 1, 9, 2, 8, 30]
    result = list(batches(lengths, 18))
    assert sorted(index for batch in result for index in batch) == list(range(6))
    for batch in result:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= 18


@pytest.mark.parametrize(
    ("name", "settings", "tolerance"),
    [
        ("wav2vec2", {"layer": 0}, 0.03),
        ("mert", {"layer": 0}, 0.03),
        ("ast encoder", {"layer": 0}, 0.05),
        ("whisper encoder", {"layer": 0}, 0.02),
        ("clap", {}, 0.32),
    ],
)
def test_frame_times_match_the_position_of_a_click(
    load: Load, name: str, settings: dict[str, Any], tolerance: float
):
    teacher = load(name, **settings)
    spec = teacher.spec()
    stream, rate = spec.stream("frames"), spec.sample_rate
    delays = []
    for index in (2.0, 3.3, 6.05):
        background = 0.01 * sound(9, rate)
        clicked = background.copy()
        clicked[round(index * rate) - 32 :][:64] += 0.5
        (before,), (after,) = teacher.extract([background]), teacher.extract([clicked])
        change_T = np.square(after.frames["frames"] - before.frames["frames"]).sum(1)
        times_T = stream.start_s + stream.hop_s * np.arange(len(change_T))
        near = np.abs(times_T - index) < max(0.1, 3 * stream.hop_s)
        delays.append((times_T * change_T)[near].sum() / change_T[near].sum() - index)
    assert np.abs(delays).max() <= tolerance


def test_hub_preset_has_only_known_settings():
    for name, (family, settings) in registry.preset("hub").items():
        known = {field.name for field in dataclasses.fields(registry.settings_class(family))}
        assert set(settings) <= known, name
