"""Loads an exported checkpoint with vLLM, and prints a summary as JSON.

    python tests/student/release/vllm_load.py CHECKPOINT

The interpreter must have vLLM. Without a GPU, models are built on vLLM's CPU platform, which does
not need compiled kernels for this.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch

if torch.version.cuda is None:
    # With a CPU build of torch, torchvision has no kernels and fails to register these two.
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
if not torch.cuda.is_available():
    import vllm.platforms
    from vllm.platforms.cpu import CpuPlatform

    vllm.platforms._current_platform = CpuPlatform()

from safetensors.torch import load_file
from transformers import AutoTokenizer
from vllm.config import ModelConfig, VllmConfig, set_current_vllm_config
from vllm.distributed import (
    init_distributed_environment,
    initialize_model_parallel,
)
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models.registry import ModelRegistry
from vllm.renderers.hf import resolve_chat_template_content_format


def main(checkpoint: str) -> dict[str, Any]:
    """Builds the model that vLLM selects for a checkpoint, and loads the weights."""
    architecture = json.loads((Path(checkpoint) / "config.json").read_text())["architectures"][0]
    # The import happens in this process, since a subprocess of vLLM would lack the settings above.
    ModelRegistry.register_model(architecture, ModelRegistry.models[architecture].load_model_cls())
    config = ModelConfig(model=checkpoint, tokenizer=checkpoint, dtype="float32", max_model_len=512)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    weights = load_file(Path(checkpoint) / "model.safetensors")
    vllm_config = VllmConfig(model_config=config)
    with set_current_vllm_config(vllm_config), tempfile.TemporaryDirectory() as folder:
        init_distributed_environment(
            world_size=1, rank=0, local_rank=0, backend="gloo",
            distributed_init_method=f"file://{folder}/store",
        )  # fmt: skip
        initialize_model_parallel(1, 1)
        torch.set_default_dtype(torch.float32)
        model = initialize_model(vllm_config=vllm_config)
        loaded = model.load_weights(iter(weights.items()))
    parameters = dict(model.named_parameters())
    (table,) = (value for name, value in parameters.items() if name.endswith("embed_tokens.weight"))
    (stored,) = (value for name, value in weights.items() if name.endswith("embed_tokens.weight"))
    return {
        "architecture": config.architectures[0],
        "model": type(model).__name__,
        "parameters": len(parameters),
        "missing": sorted(set(parameters) - set(loaded)),
        "rows": len(stored),
        "rows_equal": torch.equal(table.detach()[: len(stored)], stored),
        "content_format": resolve_chat_template_content_format(
            None, None, "auto", tokenizer, model_config=config
        ),
        "placeholder": type(model).get_placeholder_str("audio", 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
