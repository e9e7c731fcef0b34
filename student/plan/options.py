"""The options of `coat-student plan`; light, because the command line is made from them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from student.config import Recipe


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Recipe):
    """A recipe, and what it would run on."""

    cache: str | list[str] = field(default_factory=list)
    """Teacher cache, or several, whose streams get heads; without any, heads are left out."""
    gpu: str = "h100"
    """Card: b200, h200, h100, h100-pcie, a100-80, a100-40, l40s, l4, a10, rtx4090, rtx3090."""
    gpus: int = 1
    """Number of cards; each is one process."""
    sharded: bool = False
    """Cut weights, gradients and moments over the GPUs (FSDP; accelerate/fsdp_8gpu.yaml)."""
    examples: int = 100_000
    """Training examples per epoch: clips times tasks."""
    seconds: float = 10.0
    """Mean length of a clip, in seconds."""
    prompt_tokens: int = 40
    """Text tokens of a question with its template."""
    answer_tokens: int = 24
    """Tokens of an answer."""
    utilisation: float = 0.4
    """Share of the card's peak that a step reaches: an assumption until you have measured yours
    (python -m benchmarks.gpu)."""
    price_per_gpu_hour: float | None = None
    """Adds a price, in whatever currency it is given."""

    def recipe(self) -> Recipe:
        """The recipe alone."""
        return Recipe(**{item.name: getattr(self, item.name) for item in fields(Recipe)})
