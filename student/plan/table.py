"""Renders a plan as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from student.plan.estimate import SET_ASIDE_GB, Plan, StagePlan
from student.plan.options import PlanOptions


def render(plan: Plan, options: PlanOptions) -> RenderableType:
    """Renders the plan and its assumptions."""
    title = f"{plan.path} on {plan.gpus} x {plan.gpu.name} ({plan.gpu.memory_gb:g} GB)"
    table = Table(title=title)
    table.add_column("")
    for stage in plan.stages:
        table.add_column(stage.name, justify="right")
    for heading, cell in _ROWS.items():
        table.add_row(heading, *(cell(plan, stage) for stage in plan.stages))
    notes = [
        f"The backbone has {plan.num_parameters / 1e9:.2f} B parameters. One example is "
        f"{plan.tokens} tokens: {options.seconds:g} s of audio, {options.prompt_tokens} of text, "
        f"the block, and {options.answer_tokens} of answer.",
        f"An epoch is taken to have {options.examples:,} examples (--examples).",
        f"Sum: {plan.gpu_hours / plan.gpus:.2f} hours, {plan.gpu_hours:.2f} GPU hours"
        + ("." if plan.price is None else f", price {plan.price:,.2f}."),
        f"Computed, not measured: operations over {plan.gpu.tflops:g} TFLOPS at a utilisation of "
        f"{options.utilisation:g}, without validation and loading; {SET_ASIDE_GB:g} GB are set "
        "aside for CUDA and fragments.",
    ]
    if not options.cache and options.recipe().distils:
        notes.append("Heads are left out; --cache CACHE counts those of its streams.")
    notes += [_verdict(plan, stage, options) for stage in plan.stages if not _fits(plan, stage)]
    return Group(table, *(Text(note) for note in notes))


def _fits(plan: Plan, stage: StagePlan) -> bool:
    return stage.memory.total <= plan.gpu.memory_gb * 1e9


def _verdict(plan: Plan, stage: StagePlan, options: PlanOptions) -> str:
    need = f"{stage.name} needs {stage.memory.total / 1e9:.1f} GB of {plan.gpu.memory_gb:g} GB: "
    if stage.largest_batch:
        examples = stage.examples_per_step // plan.gpus
        size = max(n for n in range(1, stage.largest_batch + 1) if examples % n == 0)
        return need + (
            f"set {stage.name}.batch_size to {size} and {stage.name}.accumulation to "
            f"{examples // size}, which changes nothing else"
        )
    config = options.recipe().stages()[stage.name]
    steps = [
        step
        for step, is_open in (
            (f"set {stage.name}.checkpointing to true", not config.checkpointing),
            ("set model.quantize: 4bit", plan.can_quantize and config.train != "full"),
            ("shard the weights over several GPUs (--sharded)", not options.sharded),
        )
        if is_open
    ]
    return need + ", or ".join([*steps, "take a larger card"])


_ROWS = {
    "parameters that learn": lambda plan, stage: f"{plan.learnt[stage.name] / 1e6:,.1f} M",
    "frozen weights, GB": lambda plan, stage: f"{stage.memory.frozen / 1e9:.1f}",
    "learnt weights, gradients, moments, GB": lambda plan, stage: (
        f"{stage.memory.learnt / 1e9:.2f}"
    ),
    "activations, GB": lambda plan, stage: f"{stage.memory.activations / 1e9:.1f}",
    "memory per GPU, GB": lambda plan, stage: f"{stage.memory.total / 1e9:.1f}",
    "largest batch_size that fits": lambda plan, stage: f"{stage.largest_batch}",
    "operations per example, 10^12": lambda plan, stage: f"{stage.flops_per_example / 1e12:.1f}",
    "recomputed with checkpointing, 10^12": lambda plan, stage: (
        f"{stage.recomputed_per_example / 1e12:.1f}"
    ),
    "examples per second": lambda plan, stage: f"{stage.examples_per_second:,.1f}",
    "tokens per second": lambda plan, stage: f"{stage.tokens_per_second:,.0f}",
    "steps": lambda plan, stage: f"{stage.steps:,} of {stage.examples_per_step}",
    "hours": lambda plan, stage: f"{stage.hours:.2f}",
}
