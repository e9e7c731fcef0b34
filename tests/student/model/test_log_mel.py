"""Tests that features match the original processors, at the cost of the audio only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from student.batch import collate_audio
from student.config import ModelConfig
from student.model.backbones import log_mel
from student.model.backbones.log_mel import fill_window, samples_needed
from student.model.student import load_backbone
from tests.student.conftest import FAMILIES, PLACEHOLDERS, RATE


@pytest.mark.parametrize("seconds", [0.1, 0.5013, 1.0, 1.97, 2.0, 2.5])
def test_filled_window_equals_the_extractors_output(seconds: float) -> None:
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=2)
    rng = np.random.default_rng(0)
    for wave in (
        rng.standard_normal(int(seconds * RATE)).astype(np.float32),
        np.zeros(int(seconds * RATE), np.float32),
        (1e-4 * rng.standard_normal(int(seconds * RATE))).astype(np.float32),
    ):
        options = {"sampling_rate": RATE, "return_tensors": "pt"}
        whole = extractor(wave, **options)["input_features"]
        needed = samples_needed(extractor, [wave])
        assert needed <= min(len(wave) + 900, extractor.n_samples)
        short = extractor(wave, max_length=needed, **options)["input_features"]
        torch.testing.assert_close(fill_window(short, 200), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "qwen3_omni_moe"])
def test_inputs_match_those_of_padded_windows(
    family: str, checkpoints: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This covers tokens, masks, and the logits of the model."""
    config = ModelConfig(path=checkpoints(family), dtype="float32")
    backbone, model, processor = load_backbone(config, checkpoints(family))
    rng = np.random.default_rng(1)
    prompt = f"a {PLACEHOLDERS[family]} b"
    waves = [rng.standard_normal(int(s * RATE)).astype(np.float32) for s in (0.7, 1.31)]
    fast = [backbone.prepare(processor, prompt, [wave]) for wave in waves]
    whole_windows = f"{type(backbone).prepare.__module__}.samples_needed"
    monkeypatch.setattr(whole_windows, lambda extractor, _: extractor.n_samples)
    padded = [backbone.prepare(processor, prompt, [wave]) for wave in waves]
    for ours, theirs in zip(fast, padded, strict=True):
        assert torch.equal(ours["input_ids"], theirs["input_ids"])
        for name in set(ours) - {"input_ids"}:
            num_frames = ours[name].shape[-1]
            torch.testing.assert_close(
                ours[name], theirs[name][..., :num_frames], rtol=0, atol=2e-5
            )
        with torch.no_grad():
            torch.testing.assert_close(
                model(**ours, attention_mask=torch.ones_like(ours["input_ids"])).logits,
                model(**theirs, attention_mask=torch.ones_like(ours["input_ids"])).logits,
                rtol=1e-3, atol=1e-4,
            )  # fmt: skip
    audio = [{name: row[name] for name in set(row) - {"input_ids"}} for row in fast]
    batch = collate_audio(audio)
    assert {len(values) for values in batch.values()} == {2}
    if family == "qwen2_5_omni":
        assert batch["input_features"].shape[-1] == 131  # of 200 in the window
        assert batch["feature_attention_mask"].sum(-1).tolist() == [70, 131]


def test_extractor_has_the_expected_constants() -> None:
    extractor = WhisperFeatureExtractor()
    numbers = extractor.hop_length, extractor.n_fft, extractor.n_samples, extractor.nb_max_frames
    assert numbers == (160, 400, 480_000, 3000)
    assert log_mel.samples_needed(extractor, [np.zeros(160_000, np.float32)]) == 160_640
