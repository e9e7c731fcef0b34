"""Sets up the processes and devices of a training, and checks them before it starts."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import AutoConfig

from manifests.console import console
from manifests.errors import UserError
from student.config import Recipe
from student.model.quantized import check_bitsandbytes

EFFICIENT_LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"
"""Variable of accelerate's launcher: `fsdp_cpu_ram_efficient_loading`."""


def start_processes(recipe: Recipe) -> PartialState:
    """Joins the processes of a launcher, if there is one.

    Raises:
        UserError: the recipe needs a GPU or a package that does not exist, or settings that FSDP
            does not support.
    """
    if recipe.model.quantize:
        check_bitsandbytes("model.quantize is 4bit")
    if "8bit" in (optimizer := str(recipe.trainer.get("optim", ""))):
        check_bitsandbytes(f"trainer.optim is {optimizer}")
    on_cpu = bool(recipe.trainer.get("use_cpu")) or not torch.cuda.is_available()
    wants_half = [name for name in ("bf16", "fp16") if recipe.trainer.get(name)]
    if wants_half and on_cpu and not recipe.trainer.get("use_cpu"):
        raise UserError(
            f"recipe: trainer.{wants_half[0]} needs a GPU, and PyTorch sees none; train on one, or "
            "set trainer.use_cpu to true to try the recipe on a CPU"
        )
    if uses_fsdp(recipe) and recipe.model.dtype == "bfloat16":
        raise UserError(
            "recipe: FSDP shards parameters of one dtype, and adapters and heads are float32; set "
            "model.dtype to float32 and trainer.bf16 to true"
        )
    process = PartialState(cpu=on_cpu)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if process.num_processes != launched:
        raise UserError(
            f"a launcher started {launched} processes, but they do not see each other; launch by "
            "torchrun or accelerate launch, with a GPU for each process"
        )
    visible = torch.cuda.device_count()
    if launched == 1 and visible > 1 and not on_cpu:
        console.print(
            f"one of {visible} GPUs is used; accelerate launch --num-processes {visible} -m "
            "student.cli train ... uses all of them"
        )
    return process


def uses_fsdp(recipe: Recipe) -> bool:
    """Whether the launcher or the recipe shards the model."""
    by_launcher = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    return by_launcher or bool(recipe.trainer.get("fsdp"))


def loads_weights(recipe: Recipe, path: str, process: PartialState) -> bool:
    """Whether this process loads the backbone's weights.

    All processes do unless the model is sharded. Then only the first process of each machine loads
    them, and the others have the model on the meta device until they get their shards, if an
    environment variable of accelerate enables this. A backbone with tied embeddings is loaded by
    every process, because its table would be duplicated otherwise.
    """
    if not uses_fsdp(recipe) or not _hands_parts_out():
        return True
    config: Any = AutoConfig.from_pretrained(path)
    config = getattr(config, "thinker_config", config)
    tied = any(
        getattr(each, "tie_word_embeddings", False) for each in (config, config.get_text_config())
    )
    if tied or recipe.model.quantize:
        os.environ[EFFICIENT_LOADING] = "false"
    return process.local_process_index == 0 or not _hands_parts_out()


def _hands_parts_out() -> bool:
    return os.environ.get(EFFICIENT_LOADING, "").lower() in ("1", "true")


def materialise_trained(student: nn.Module) -> None:
    """Allocates memory for trained parameters and buffers on the meta device.

    accelerate identifies trained weights by their addresses, and does not distribute buffers.
    """
    for name, buffer in list(student.named_buffers()):
        if buffer.is_meta:
            parent, _, own = name.rpartition(".")
            module = student.get_submodule(parent)
            module.register_buffer(own, torch.zeros_like(buffer, device="cpu"), persistent=False)
    for name, parameter in list(student.named_parameters()):
        if parameter.is_meta and parameter.requires_grad:
            parent, _, own = name.rpartition(".")
            real = torch.zeros_like(parameter, device="cpu")
            setattr(student.get_submodule(parent), own, nn.Parameter(real))


def name_wrapped_layer(model: Any) -> None:
    """Sets the class that FSDP wraps: the decoder layer of this backbone's language model."""
    layer = type(model.model.language_model.layers[0]).__name__
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = layer
