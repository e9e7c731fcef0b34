"""Puts PEFT's adapters into a backbone: LoRA and the trained rows of the embedding table.

Modules are given to PEFT by their full names. For models whose mixture of experts was fused in
transformers 5, PEFT (0.21) replaces a regular expression by the last parts of the names that it
matches, and `q_proj` alone is also the name of modules of the audio tower.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from manifests.errors import UserError
from student.lora_settings import LoraSettings
from student.model.backbones.protocol import Backbone


def add_lora(
    model: PreTrainedModel,
    backbone: Backbone,
    settings: LoraSettings,
    *,
    rows: Sequence[int] | None = None,
) -> PeftModel:
    """Wraps a model with LoRA on its language model's projections.

    Args:
        model: It is changed in place.
        backbone: The adapter of its family.
        settings: Rank and size, and whether experts have LoRA.
        rows: Rows of the embedding table that are trained.

    Raises:
        UserError: LoRA on experts is asked for, and the family has none.
    """
    if settings.experts and not backbone.expert_parameters:
        raise UserError(
            "lora.experts is true, and the backbone has no experts; remove it from the recipe"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=projections(model, backbone),
        target_parameters=list(backbone.expert_parameters) if settings.experts else None,
        trainable_token_indices=None if rows is None else list(rows),
    )
    return _wrapped(model, config)


def add_trained_rows(model: PreTrainedModel, rows: Sequence[int]) -> PeftModel:
    """Wraps a model whose only adapter is the trained rows of the embedding table."""
    table = next(
        name for name, module in model.named_modules() if module is model.get_input_embeddings()
    )
    config = TrainableTokensConfig(token_indices=list(rows), target_modules=[table])
    return _wrapped(model, config)


def projections(model: nn.Module, backbone: Backbone) -> list[str]:
    """Full names of the modules that have LoRA."""
    pattern = re.compile(backbone.lora_pattern)
    return [name for name, _ in model.named_modules() if pattern.fullmatch(name)]


def count_expert_adapters(model: nn.Module, backbone: Backbone, settings: LoraSettings) -> int:
    """Parameters of the LoRA that `settings` puts on experts: two matrices for each expert."""
    if not settings.experts:
        return 0
    shapes = [
        value.shape
        for name, value in model.named_parameters()
        if name.endswith(backbone.expert_parameters)
    ]
    return sum(experts * settings.rank * (rows + columns) for experts, rows, columns in shapes)


def _wrapped(model: PreTrainedModel, config: LoraConfig | TrainableTokensConfig) -> PeftModel:
    wrapped = get_peft_model(model, config)
    assert isinstance(wrapped, PeftModel)
    return wrapped
