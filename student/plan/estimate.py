"""Estimates a recipe's memory, steps, hours and price on a given GPU, before anything is loaded.

All values are computed, not measured: operations and saved bytes are counted
(`student.plan.counting`), time is the number of operations divided by the GPU's peak and an assumed
utilisation, and some memory is reserved for uncounted uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from manifests.errors import UserError
from student.config import StageConfig
from student.model.adapters import add_lora, count_expert_adapters
from student.model.backbones.registry import named_backbone
from student.plan.checkpoints import FAMILIES, empty_model
from student.plan.counting import (
    StepCounts,
    count_model,
    count_step,
    empty_heads,
    train_own_weights,
)
from student.plan.gpus import Gpu, named_gpu
from student.plan.options import PlanOptions

BLOCK_MARKS = 2
"""Tokens that open and close the block."""
NF4_BYTES = 0.5 + 4 / 64
"""Bytes of a 4-bit weight: half a byte, and a float32 scale per 64 of them."""
SET_ASIDE_GB = 2.0
"""Reserved memory for the CUDA context, workspaces of kernels and fragmentation."""
MOMENTS = {"adamw_8bit": 2, "paged_adamw_8bit": 2, "adamw_bnb_8bit": 2, "sgd": 4}
"""Optimizer -> bytes per trained weight; AdamW's two float32 moments are 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one GPU, by use."""

    frozen: float
    learnt: float
    """Weights in float32, gradients, moments."""
    activations: float
    """Saved for one backward pass, including the logits."""

    @property
    def total(self) -> float:
        """Total, including reserved memory."""
        return self.frozen + self.learnt + self.activations + SET_ASIDE_GB * 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One training stage."""

    name: str
    steps: int
    examples_per_step: int
    memory: Memory
    largest_batch: int
    """Largest number of examples per forward pass that fits; 0 if none does."""
    flops_per_example: float
    """Operations of forward and backward pass, without recomputation."""
    recomputed_per_example: float
    """Operations that activation checkpointing repeats."""
    examples_per_second: float
    """All GPUs together."""
    tokens_per_second: float
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cost of a recipe."""

    path: str
    gpu: Gpu
    gpus: int
    num_parameters: int
    """Parameters of the backbone."""
    can_quantize: bool
    """Whether the backbone could be loaded in 4 bits, and is not."""
    learnt: Mapping[str, int]
    """Stage -> parameters that it trains."""
    tokens: int
    """Length of one example."""
    stages: list[StagePlan]
    price_per_gpu_hour: float | None = None

    @property
    def price(self) -> float | None:
        """Price of all GPU hours."""
        return None if self.price_per_gpu_hour is None else self.gpu_hours * self.price_per_gpu_hour

    @property
    def gpu_hours(self) -> float:
        """Sum over stages and GPUs."""
        return self.gpus * sum(stage.hours for stage in self.stages)


def build_plan(options: PlanOptions, *, streams: Mapping[str, int]) -> Plan:
    """Computes the plan of a recipe.

    Args:
        options: The recipe and the hardware.
        streams: Stream -> width of its targets.

    Raises:
        UserError: the model or the GPU is unknown, or a number is out of range.
    """
    if options.gpus < 1 or options.examples < 1 or not 0 < options.utilisation <= 1:
        raise UserError(
            f"gpus and examples must be at least 1 and utilisation in (0, 1]; found "
            f"{options.gpus}, {options.examples} and {options.utilisation}"
        )
    recipe, gpu = options.recipe(), named_gpu(options.gpu)
    model = empty_model(recipe.model)
    backbone = named_backbone(model.config.model_type)
    projections, others = count_model(model, backbone)
    width = model.config.get_text_config().hidden_size
    num_positions = recipe.block.tokens
    selected = recipe.streams
    dims = {
        name: dim
        for name, dim in streams.items()
        if recipe.distils and (selected is None or name in selected)
    }
    heads = empty_heads(dims, hidden_size=width, num_positions=num_positions, config=recipe.heads)
    in_block = num_positions + BLOCK_MARKS if recipe.has_block else 0
    family = FAMILIES[model.config.model_type]
    with_tokens = family.padded_seconds(options.seconds) if backbone.pads_audio else options.seconds
    audio_tokens = round(with_tokens * backbone.tokens_per_second)
    tokens = audio_tokens + options.prompt_tokens + in_block + options.answer_tokens

    num_heads = sum(value.numel() for value in heads.parameters())
    rows = (num_positions + BLOCK_MARKS) * width if recipe.has_block else 0
    stages: list[StagePlan] = []
    learnt: dict[str, int] = {}
    for name, stage in recipe.stages().items():
        if "lora" in stage.train:
            # PEFT's adapters of experts do not run on the meta device: their weights are counted by
            # hand, and their operations, a few per cent, are left out.
            with torch.device("meta"):
                add_lora(model, backbone, replace(recipe.lora, experts=False))
        learnt[name] = num_heads + rows
        if "lora" in stage.train:
            learnt[name] += count_expert_adapters(model, backbone, recipe.lora) + sum(
                value.numel() for key, value in model.named_parameters() if ".lora_" in f".{key}"
            )
        trained = train_own_weights(model, backbone, stage.train)
        learnt[name] += sum(trained)
        counts = count_step(
            model, backbone, heads,
            num_positions=num_positions, tokens=tokens,
            answer_tokens=options.answer_tokens, clip_s=options.seconds,
        )  # fmt: skip
        stages.append(
            _plan_stage(
                name, stage, options, gpu, counts,
                frozen=(projections - trained[0], others - trained[1]),
                learnt=learnt[name], tokens=tokens,
            )
        )  # fmt: skip
    return Plan(path=str(recipe.model.path), gpu=gpu, gpus=options.gpus,
                num_parameters=projections + others,
                can_quantize=recipe.model.quantize is None and not backbone.expert_parameters,
                learnt=learnt, tokens=tokens, stages=stages,
                price_per_gpu_hour=options.price_per_gpu_hour)  # fmt: skip


def _plan_stage(
    name: str, stage: StageConfig, options: PlanOptions, gpu: Gpu, counts: StepCounts, *,
    frozen: tuple[int, int], learnt: int, tokens: int,
) -> StagePlan:  # fmt: skip
    parts = options.gpus if options.sharded else 1
    optimizer = str(options.trainer.get("optim", "adamw"))
    size = 4 if options.model.dtype == "float32" or options.sharded else 2
    projection_bytes = NF4_BYTES if options.model.quantize == "4bit" else size
    frozen_bytes = (frozen[0] * projection_bytes + frozen[1] * size) / parts
    learnt_bytes = learnt * (8 + MOMENTS.get(optimizer, 8)) / parts
    kept = counts.kept_with_checkpointing if stage.checkpointing else counts.kept
    per_example = kept + counts.logits
    memory = Memory(
        frozen=frozen_bytes, learnt=learnt_bytes, activations=per_example * stage.batch_size
    )
    room = gpu.memory_gb * 1e9 - memory.total + memory.activations
    flops = counts.tower_forward + counts.forward + counts.backward
    recomputed = counts.forward if stage.checkpointing else 0.0
    speed = options.gpus * gpu.tflops * 1e12 * options.utilisation / (flops + recomputed)
    examples_per_step = stage.batch_size * stage.accumulation * options.gpus
    if stage.max_steps > 0:
        steps, examples = stage.max_steps, float(stage.max_steps * examples_per_step)
    else:
        # As the trainer counts: the last step of an epoch may have fewer examples.
        batches = math.ceil(options.examples / (stage.batch_size * options.gpus))
        steps = math.ceil(stage.epochs * math.ceil(batches / stage.accumulation))
        examples = options.examples * stage.epochs
    return StagePlan(
        name=name,
        steps=steps,
        examples_per_step=examples_per_step,
        memory=memory,
        largest_batch=max(int(room // per_example), 0),
        flops_per_example=flops,
        recomputed_per_example=recomputed,
        examples_per_second=speed,
        tokens_per_second=speed * tokens,
        hours=examples / speed / 3600,
    )
