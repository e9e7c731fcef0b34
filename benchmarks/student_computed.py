"""Computes operations and memory of a training step at true size without a GPU.

    python -m benchmarks.student_computed

Operations and saved bytes are counted on the meta device (`student.plan`), for a clip of 10 s, K =
32 and the streams of the embedded experts; nothing is run. `step / sft` can be compared with a
measured step of `python -m benchmarks.gpu`. The second table is the result of `coat-student plan`
for each shipped recipe.
"""

from __future__ import annotations

from dataclasses import fields, replace

from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from benchmarks.student_setup import STREAMS
from student.arm_switches import ARMS
from student.config import Recipe, StageConfig
from student.plan.checkpoints import KNOWN
from student.plan.estimate import build_plan
from student.plan.options import PlanOptions
from student.quiet import quiet_libraries
from student.recipe_files import load_recipe, recipes_folder

WIDTHS = {name: width for name, (_, width) in STREAMS.items()}
CARDS = {"1x24gb": ("rtx4090", 1), "8x80gb": ("h100", 8)}
"""Part of a recipe's name -> its GPU."""


def main() -> None:
    """Computes and prints both tables."""
    quiet_libraries()
    console = Console(highlight=False, width=150)
    console.print(arms_table())
    console.print(recipes_table())
    console.print(f"computed, not measured; {describe()}")


def arms_table() -> Table:
    """Builds the table of operations and saved bytes of one example, for backbones and arms."""
    table = Table(title="one example of 10 s in the joint stage, LoRA rank 16")
    for heading in ("backbone", "arm", "tokens", "10^12 operations", "step / sft", "kept, GB",
                    "with checkpointing, GB"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("backbone", "arm") else "right")
    for path in KNOWN:
        sft = 0.0
        for arm in ("sft", "pause", "distill", "coat"):
            plans = [
                build_plan(_options(path, arm, checkpointing), streams=WIDTHS)
                for checkpointing in (False, True)
            ]
            (plain,), (checkpointed,) = (
                [stage for stage in plan.stages if stage.name == "joint"] for plan in plans
            )
            sft = sft or plain.flops_per_example
            table.add_row(
                path, arm, str(plans[0].tokens), f"{plain.flops_per_example / 1e12:.2f}",
                f"{plain.flops_per_example / sft:.3f}",
                f"{plain.memory.activations / 1e9:.2f}",
                f"{checkpointed.memory.activations / 1e9:.2f}",
            )  # fmt: skip
    return table


def joint_flops(path: str, arm: str) -> float:
    """Returns the operations of one example of 10 s in the joint stage, without recomputation."""
    plan = build_plan(_options(path, arm, checkpointing=False), streams=WIDTHS)
    return next(stage.flops_per_example for stage in plan.stages if stage.name == "joint")


def recipes_table() -> Table:
    """Builds the table of memory of each shipped recipe on its GPU."""
    table = Table(title="shipped recipes, 100,000 examples of 10 s per epoch, utilisation 0.4")
    for heading in ("recipe", "card", "stage", "batch_size", "largest", "memory, GB", "of",
                    "hours"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("recipe", "card") else "right")
    for file in sorted(recipes_folder().glob("*gb.yaml")):
        card, gpus = CARDS[file.stem.rsplit("_", 1)[-1]]
        recipe = load_recipe(file)
        own = {item.name: getattr(recipe, item.name) for item in fields(Recipe)}
        plan = build_plan(PlanOptions(**own, gpu=card, gpus=gpus), streams=WIDTHS)
        for stage in plan.stages:
            settings = recipe.stages()[stage.name]
            table.add_row(
                file.stem, f"{gpus} x {card}", stage.name, str(settings.batch_size),
                str(stage.largest_batch), f"{stage.memory.total / 1e9:.1f}",
                f"{plan.gpu.memory_gb:g}", f"{stage.hours:.2f}",
            )  # fmt: skip
    return table


def _options(path: str, arm: str, checkpointing: bool) -> PlanOptions:
    recipe = load_recipe(recipes_folder() / "qwen2_audio_8x80gb.yaml")
    assert arm in ARMS
    changed = replace(
        recipe,
        arm=arm,
        model=replace(recipe.model, path=path),
        align=None,
        joint=StageConfig(batch_size=1, checkpointing=checkpointing),
    )
    return PlanOptions(**{item.name: getattr(changed, item.name) for item in fields(Recipe)})


if __name__ == "__main__":
    main()
