"""Settings of the low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters on the language model's attention and MLP projections; of a mixture of
    experts, on attention alone unless `experts` is true."""

    rank: int = 16
    """Rank r of the adapters."""
    alpha: int = 32
    """Scale: the product of the adapters is multiplied by alpha / r."""
    dropout: float = 0.05
    """Dropout probability of their input."""
    experts: bool = False
    """Also adapt the experts of a mixture (Qwen3-Omni): one pair of matrices of this rank for each
    expert. PEFT supports this without dropout only. The router is never trained."""

    def __post_init__(self) -> None:
        if self.experts and self.dropout:
            raise UserError(
                f"recipe: lora.dropout must be 0 with lora.experts; found {self.dropout}"
            )
