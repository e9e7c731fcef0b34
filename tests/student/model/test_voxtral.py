"""Tests for what is special in Voxtral: Mistral's tokens and template, and padded windows."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor

from student.batch import Grid
from student.config import ModelConfig
from student.data.dataset import ExampleDataset
from student.data.examples import Example, ask
from student.data.prompts import Prompter
from student.distill.streams import RECONSTRUCTION
from student.model.backbones.voxtral import CHAT_TEMPLATE, Voxtral
from student.model.student import load_backbone
from student.model.tower_cache import cache_tower_outputs
from tests.student.conftest import RATE

Loaded = tuple[Any, Any, Any]


@pytest.fixture(scope="module")
def loaded(checkpoints: Callable[[str], str]) -> Loaded:
    """Adapter, model and processor of the small checkpoint."""
    path = checkpoints("voxtral")
    return load_backbone(ModelConfig(path=path, dtype="float32"), path)


def noise(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal(int(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def mistral_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has its tokens only in Mistral's `tekken.json`."""
    folder = tmp_path_factory.mktemp("mistral")
    specials = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 11: "<pad>",
             17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]", 24: "[AUDIO]",
             25: "[BEGIN_AUDIO]"}  # fmt: skip
    tekken = {
        "config": {"pattern": r"\p{L}+|\p{N}|\s+|[^\s\p{L}\p{N}]+", "num_vocab_tokens": 256,
                   "default_vocab_size": 286, "default_num_special_tokens": 30, "version": "v7"},
        "vocab": [{"rank": byte, "token_bytes": base64.b64encode(bytes([byte])).decode(),
                   "token_str": None} for byte in range(256)],
        "special_tokens": [{"rank": rank, "token_str": specials.get(rank, f"<SPECIAL_{rank}>"),
                            "is_control": True} for rank in range(30)],
    }  # fmt: skip
    (folder / "tekken.json").write_text(json.dumps(tekken))
    (folder / "config.json").write_text(json.dumps({"model_type": "voxtral"}))
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    return folder


def test_prompt_ids_match_mistral_common(mistral_folder: Path) -> None:
    """The ids are those of mistral-common 1.13.1: one for each byte of text, and 375 for a second
    of audio, because the window is padded. Special tokens in texts stay text."""
    backbone = Voxtral()
    processor = backbone.load_processor(str(mistral_folder))
    prompter = Prompter(backbone, processor)
    wave = np.zeros(RATE, np.float32)
    ids = prompter.prompt(ask("What?"), [wave])["input_ids"][0].tolist()
    assert ids == [1, 3, 25, *[24] * 375, *(30 + byte for byte in b"What?"), 4]
    assert prompter.answer("so") == [30 + ord("s"), 30 + ord("o"), 2]
    text_ids = prompter.prompt(ask("[AUDIO]"), [wave])["input_ids"][0].tolist()
    assert text_ids == [1, 3, 25, *[24] * 375, *(30 + byte for byte in b"[AUDIO]"), 4]


def test_template_matches_mistrals_version_7(mistral_folder: Path) -> None:
    """The strings are the output of mistral-common 1.13.1 for the same conversations."""
    processor = Voxtral().load_processor(str(mistral_folder))
    first = {"role": "user", "content": [{"type": "text", "text": "First:"}, {"type": "audio"},
                                         {"type": "text", "text": "What is said?"}]}  # fmt: skip
    later = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "and?"}]
    text = processor.apply_chat_template([first, *later], tokenize=False)
    assert text == "<s>[INST]First:[BEGIN_AUDIO][AUDIO]What is said?[/INST]Hi</s>[INST]and?[/INST]"
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    assert processor.apply_chat_template([*system, *later], tokenize=False) == (
        "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]What?[/INST]Hi</s>[INST]and?[/INST]"
    )
    assert processor.chat_template == CHAT_TEMPLATE


def test_original_classes_make_the_same_inputs(loaded: Loaded, checkpoints: Any) -> None:
    """The code is that of docs/serve.md; the small model's window of 2 s has 25 placeholders."""
    backbone, _, processor = loaded
    tokenizer = AutoTokenizer.from_pretrained(checkpoints("voxtral"), mistral_format=False)
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoints("voxtral"))
    turns = [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"},
                                          {"type": "text", "text": "What is said?"}]}]  # fmt: skip
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(
        prompt.replace("[AUDIO]", "[AUDIO]" * 25), add_special_tokens=False, return_tensors="pt"
    )["input_ids"]
    features = extractor(noise(1.1), sampling_rate=RATE, return_tensors="pt")["input_features"]
    ours = Prompter(backbone, processor).prompt(ask("What is said?"), [noise(1.1)])
    assert torch.equal(ours["input_ids"], ids)
    torch.testing.assert_close(ours["input_features"], features, rtol=0, atol=2e-5)


def test_long_audio_is_transformed_as_a_whole_and_then_split(loaded: Loaded) -> None:
    backbone, _, processor = loaded
    wave = noise(3.3)
    inputs = backbone.prepare(processor, "<s>[INST][BEGIN_AUDIO][AUDIO]?[/INST]", [wave])
    padded = np.concatenate([wave, np.zeros(4 * RATE - len(wave), np.float32)])
    whole = processor.extractor(
        padded, sampling_rate=RATE, padding="max_length", max_length=4 * RATE, truncation=False,
        return_tensors="pt",
    )["input_features"][0]  # fmt: skip
    assert inputs["input_features"].shape == (2, 80, 200)
    torch.testing.assert_close(torch.cat([*inputs["input_features"]], dim=1), whole)
    assert int((inputs["input_ids"] == backbone.audio_token_id(loaded[1])).sum()) == 50


@pytest.mark.parametrize("seconds", [0.5, 1.97, 2.0])
def test_padding_of_a_window_has_no_weight_in_targets(
    loaded: Loaded, toy_data: Any, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds have 25 tokens; only those that begin within the audio have a weight."""
    backbone, model, processor = loaded
    monkeypatch.setattr("manifests.audio.load", lambda clip, rate: noise(seconds))
    clip = toy_data.clips[0]
    example = Example(messages=ask("?"), answer="low", clip_ids=(clip.clip_id,), task="t")
    reconstruction: Any = SimpleNamespace(name=RECONSTRUCTION)
    dataset = ExampleDataset(
        [example], {clip.clip_id: clip}, Prompter(backbone, processor),
        Grid(streams={RECONSTRUCTION: reconstruction}, num_frames=4),
        audio_token_id=backbone.audio_token_id(model),
    )  # fmt: skip
    row = dataset[0]
    assert row.audio_weights_NS is not None
    weighted_S = row.audio_weights_NS.any(0)
    audio_S = row.ids_S[: len(weighted_S)] == backbone.audio_token_id(model)
    assert int(audio_S.sum()) == 25
    tokens = -(-int(seconds * 1000) // 80)
    assert weighted_S[audio_S].nonzero()[:, 0].tolist() == list(range(tokens))
    torch.testing.assert_close(row.audio_weights_NS.sum(1), torch.ones(4))


def test_cached_tower_outputs_give_the_same_logits(loaded: Loaded) -> None:
    backbone, model, processor = loaded
    inputs = backbone.prepare(processor, "<s>[INST][BEGIN_AUDIO][AUDIO]?[/INST]", [noise(3.0)])
    tower = backbone.audio_tower(model)
    compute = tower.forward
    with torch.no_grad():
        expected = model(**inputs).logits
        cache_tower_outputs(tower)
        first, again = (model(**inputs).logits for _ in range(2))
    tower.forward = compute
    torch.testing.assert_close(first, expected)
    assert torch.equal(first, again)
