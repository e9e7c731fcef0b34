"""bitsandbytes' private switch, which `student.model.quantized` turns off, is still there."""

from __future__ import annotations

import pytest
import torch

from student.model.quantized import PACKS_ON_CPU, keep_weights_unpacked


def test_the_switch_that_packs_weights_on_a_cpu_is_turned_off() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(64, 64)
    assert hasattr(layer, PACKS_ON_CPU), "bitsandbytes has renamed it: see student.model.quantized"
    keep_weights_unpacked(torch.nn.Sequential(layer))  # type: ignore[arg-type]
    assert getattr(layer, PACKS_ON_CPU) is False
