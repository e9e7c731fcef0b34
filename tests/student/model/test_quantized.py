"""Tests the use of bitsandbytes: its private switch, and the message if it is not installed."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from manifests.errors import UserError
from student.config import ModelConfig, Recipe
from student.model.quantized import PACKS_ON_CPU, keep_weights_unpacked
from student.training.processes import start_processes


def test_packing_of_weights_on_cpu_is_turned_off() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(64, 64)
    assert hasattr(layer, PACKS_ON_CPU), "bitsandbytes has renamed it: see student.model.quantized"
    keep_weights_unpacked(torch.nn.Sequential(layer))  # type: ignore[arg-type]
    assert getattr(layer, PACKS_ON_CPU) is False


def test_missing_bitsandbytes_is_named_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """transformers raised an ImportError after the data had been prepared."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    model = ModelConfig(path=str(tmp_path))
    for recipe, setting in (
        (Recipe(model=replace(model, quantize="4bit")), "model.quantize is 4bit"),
        (Recipe(model=model, trainer={"optim": "adamw_8bit"}), "trainer.optim is adamw_8bit"),
    ):
        with pytest.raises(UserError, match=f"{setting}, which needs bitsandbytes: pip install"):
            start_processes(recipe)
