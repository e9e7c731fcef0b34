"""Loads an exported checkpoint by vLLM's own code, and says as JSON what came of it.

    python tests/student/release/vllm_load.py CHECKPOINT

Run by an interpreter that has vLLM. Without a GPU its models are built on its CPU platform, which
needs none of its compiled kernels for that.
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
    # Beside a CPU build of torch, torchvision's wheel has no kernels, and stops at these two.
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
    """Builds the model that vLLM chooses for a checkpoint, and gives it the weights."""
    stated = json.loads((Path(checkpoint) / "config.json").read_text())["architectures"][0]
    # Imported here not looked at by a process of vLLM's, which would lack what is said above.
    ModelRegistry.register_model(stated, ModelRegistry.models[stated].load_model_cls())
    config = ModelConfig(model=checkpoint, tokenizer=checkpoint, dtype="float32", max_model_len=512)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    weights = load_file(Path(checkpoint) / "model.safetensors")
    whole = VllmConfig(model_config=config)
    with set_current_vllm_config(whole), tempfile.TemporaryDirectory() as folder:
        init_distributed_environment(
            world_size=1, rank=0, local_rank=0, backend="gloo",
            distributed_init_method=f"file://{folder}/store",
        )  # fmt: skip
        initialize_model_parallel(1, 1)
        torch.set_default_dtype(torch.float32)
        model = initialize_model(vllm_config=whole)
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
