"""Tests that the private switch of bitsandbytes that `student.model.quantized` sets exists."""

from __future__ import annotations

import pytest
import torch

from student.model.quantized import PACKS_ON_CPU, keep_weights_unpacked


def test_packing_of_weights_on_cpu_is_turned_off() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(64, 64)
    assert hasattr(layer, PACKS_ON_CPU), "bitsandbytes has renamed it: see student.model.quantized"
    keep_weights_unpacked(torch.nn.Sequential(layer))  # type: ignore[arg-type]
    assert getattr(layer, PACKS_ON_CPU) is False
