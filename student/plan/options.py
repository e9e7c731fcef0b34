"""The options of `coat-student plan`. This module imports no large libraries, because the command
line is built from it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from student.config import Recipe


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Recipe):
    """A recipe, and the hardware to run it on."""

    cache: str | list[str] = field(default_factory=list)
    """One or more teacher caches, whose streams get heads; without a cache, heads are not
    counted."""
    gpu: str = "h100"
    """Card: b200, h200, h100, h100-pcie, a100-80, a100-40, l40s, l4, a10, rtx4090, rtx3090."""
    gpus: int = 1
    """Number of cards; each is one process."""
    sharded: bool = False
    """Shard weights, gradients and moments over the GPUs (FSDP; accelerate/fsdp_8gpu.yaml)."""
    examples: int = 100_000
    """Number of training examples per epoch: clips times tasks."""
    seconds: float = 10.0
    """Mean length of a clip, in seconds."""
    prompt_tokens: int = 40
    """Number of text tokens of a question with its template."""
    answer_tokens: int = 24
    """Tokens of an answer."""
    utilisation: float = 0.4
    """Fraction of the GPU's peak that a step reaches. Measure yours with python -m benchmarks.gpu;
    the default is an assumption."""
    price_per_gpu_hour: float | None = None
    """Price of one GPU hour, in any currency. Without it, no price is shown."""

    def recipe(self) -> Recipe:
        """The recipe alone."""
        return Recipe(**{item.name: getattr(self, item.name) for item in fields(Recipe)})
