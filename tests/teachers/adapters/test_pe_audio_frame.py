"""Tests for PE-A-Frame on a tiny checkpoint: parity with transformers, times, phrases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from manifests.errors import UserError
from teachers import registry
from teachers.adapters.pe_audio_frame import audioset_classes
from teachers.adapters.yamnet import class_names
from teachers.protocol import Teacher
from tests.teachers import checkpoints
from tests.teachers.checkpoints import sound

RATE = 48_000
PHRASES = ["This is music", "a violin"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.pe_audio_frame(tmp_path_factory.mktemp("pe_audio_frame"))


def load(folder: Path, **settings: Any) -> Teacher:
    teacher = registry.make(
        "sound_event", "pe_audio_frame", {"model": str(folder), "phrases": PHRASES, **settings}
    )
    teacher.load(device="cpu", num_threads=1)
    return teacher


def test_posteriors_and_frames_match_transformers(folder: Path):
    wave = sound(2.01, RATE)
    (targets,) = load(folder).extract([wave])
    model = transformers.PeAudioFrameLevelModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        PHRASES, padding=True, return_tensors="pt"
    )
    values = extractor([wave], sampling_rate=RATE, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        output = model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask,
            input_values=torch.as_tensor(values),
        )  # fmt: skip
    expected_TC = output.logits_audio_text[0].sigmoid().T.numpy()
    # The model's last frame is left out, since its centre is after the end of the clip.
    assert len(expected_TC) == 51
    assert targets.frames["posteriors"].shape == (50, 2)
    assert np.abs(targets.frames["posteriors"] - expected_TC[:50]).max() < 1e-5
    assert np.abs(targets.frames["frames"] - output.audio_embeds[0, :50].numpy()).max() < 1e-5


def test_padded_clip_matches_the_unpadded_clip(folder: Path):
    """In transformers, padding changes the last frames of the shorter clip."""
    waves = [sound(seconds, RATE, seed) for seed, seconds in enumerate((1.0, 3.0))]
    teacher = load(folder)
    padded, single = teacher.extract(waves)[0], teacher.extract(waves[:1])[0]
    assert np.abs(padded.frames["frames"] - single.frames["frames"]).max() < 1e-5
    model = transformers.PeAudioFrameLevelModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(waves, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        reference = model.get_audio_embeds(
            torch.as_tensor(np.asarray(inputs["input_values"])),
            torch.as_tensor(np.asarray(inputs["padding_mask"])),
        )[0, :25].numpy()  # fmt: skip
    assert np.abs(reference - single.frames["frames"]).max() > 1e-3


def test_group_norm_of_a_padded_batch_works_in_float16(folder: Path):
    """The sums of a window overflow float16, so transformers' norm gives NaN or zeros."""
    states_BTD = 20 * torch.randn(2, 4000, 32, generator=torch.Generator().manual_seed(0))
    mask_BT = torch.arange(4000) < torch.tensor([[4000], [3000]])
    outputs = []
    for dtype in ("float32", "float16"):
        embedder = load(folder, dtype=dtype)._model.audio_encoder.patch_embedder  # pyright: ignore
        states = states_BTD.to(getattr(torch, dtype))
        with torch.inference_mode():
            outputs.append(embedder.resnet_block(states, mask_BT).float() - states.float())
    assert outputs[0].std() > 0.01
    assert (outputs[1] - outputs[0]).std() < 0.05 * outputs[0].std()


def test_frame_times_match_the_position_of_a_click(folder: Path):
    """With a disabled transformer, a frame depends on its 40 ms and adjacent frames."""
    teacher = load(folder)
    for layer in teacher._model.audio_encoder.layers:  # pyright: ignore
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    background = 0.01 * sound(3, RATE)
    stream = teacher.spec().stream("frames")
    delays = []
    for index in np.linspace(1.0, 1.07, 8):
        clicked = background.copy()
        clicked[round(index * RATE) - 32 :][:64] += 0.5
        before, after = (
            teacher.extract([wave])[0].frames["frames"] for wave in (background, clicked)
        )
        change_T = np.square(after - before).sum(1)
        times_T = stream.start_s + stream.hop_s * np.arange(len(change_T))
        near_T = np.abs(times_T - index) < 0.2
        delays.append((times_T * change_T)[near_T].sum() / change_T[near_T].sum() - index)
    assert abs(np.mean(delays)) < 0.01
    assert np.abs(delays).max() < 0.03


def test_phrases_default_to_the_classes_of_audioset(folder: Path):
    names = audioset_classes()
    assert len(names) == 527
    assert (names[0], names[137], names[526]) == ("Speech", "Music", "Field recording")
    assert set(class_names()) < set(names)
    teacher = load(folder, phrases=[], features=False)
    (posteriors,) = teacher.spec().streams
    assert (posteriors.names, posteriors.codec, posteriors.hop_s) == (names, "topk16", 0.04)
    (targets,) = teacher.extract([sound(0.5, RATE)])
    assert targets.frames["posteriors"].shape == (12, 527)


def test_text_encoder_is_freed_after_loading(folder: Path):
    assert load(folder)._model.text_model is None  # pyright: ignore


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"posteriors": False, "features": False}, "set posteriors or features"),
        ({"phrases": ["a dog", "a dog"]}, "listed twice"),
        ({"frame_rate": 20.0}, "must divide the native 25"),
    ],
)
def test_invalid_settings_raise_an_error(folder: Path, settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        load(folder, **settings)


def test_checkpoint_of_another_model_raises_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="not a PE-A-Frame checkpoint"):
        load(checkpoints.hubert(tmp_path))
