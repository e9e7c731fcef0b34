"""Counts operations and bytes of a training step on the meta device.

The language model runs forward and backward without weights: torch's FlopCounterMode counts matrix
products, and a hook counts the tensors saved for the backward pass. The audio tower is frozen, so
only its forward pass is counted. Norms, softmax and copies are not counted, as is usual for model
FLOPs utilisation (arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from student.config import HeadConfig
from student.library_internals import grouped_product_operator, storage_identity
from student.model.backbones.protocol import Backbone
from student.model.heads import StreamHead
from student.plan.checkpoints import FAMILIES

# Legend: S tokens, H width of the language model, T tower positions.

CAUSAL = {"full_attention": None, "sliding_attention": None}


def _grouped_product(rows: Sequence[int], weights: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of a product in which each row meets the weights of one expert."""
    return 2 * math.prod(rows) * weights[-1]


GROUPED = {grouped_product_operator(): _grouped_product}
"""The product of a mixture of experts, for which torch's counter has no formula."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """Counts for one example in one training step; a multiply-add is two operations."""

    tower_forward: float
    forward: float
    """Operations of the language model, its head at the answer, and the stream heads."""
    backward: float
    kept: float
    """Bytes that the backward pass needs."""
    kept_with_checkpointing: float
    """Bytes with activation checkpointing: inputs of all layers, and the activations of one."""
    logits: float
    """Bytes of the answer's logits, in bfloat16, float32, and their gradient."""


def count_model(model: PreTrainedModel, backbone: Backbone) -> tuple[int, int]:
    """Counts parameters of the language model's projections, and all others."""
    pattern = re.compile(backbone.lora_pattern + r"\.weight")
    named = list(model.named_parameters())
    projections = sum(value.numel() for name, value in named if pattern.fullmatch(name))
    return projections, sum(value.numel() for _, value in named) - projections


def train_own_weights(model: PreTrainedModel, backbone: Backbone, what: str) -> tuple[int, int]:
    """Lets the backbone's own weights learn that a stage trains, and counts them: those of the
    language model's projections, and all others."""
    own = {"full": backbone.trained_in_full, "projector+lora": backbone.projector}.get(what)
    if own is None:
        return 0, 0
    chosen, projection = re.compile(own), re.compile(backbone.lora_pattern + r"\.weight")
    counts = [0, 0]
    for name, value in model.named_parameters():
        if chosen.fullmatch(name):
            value.requires_grad_(True)
            counts[projection.fullmatch(name) is None] += value.numel()
    return counts[0], counts[1]


def empty_heads(
    dims: Mapping[str, int], *, hidden_size: int, num_positions: int, config: HeadConfig
) -> nn.ModuleList:
    """One head per stream, without weights."""
    with torch.device("meta"):
        return nn.ModuleList(
            StreamHead(hidden_size=hidden_size, num_positions=num_positions, dim=dim, config=config)
            for dim in dims.values()
        )


def count_step(
    model: PreTrainedModel,
    backbone: Backbone,
    heads: nn.ModuleList,
    *,
    num_positions: int,
    tokens: int,
    answer_tokens: int,
    clip_s: float,
) -> StepCounts:
    """Counts the operations and bytes of one example.

    Args:
        model: The model of `empty_model`; with adapters if they are trained.
        backbone: Its adapter.
        heads: The heads of `empty_heads`.
        num_positions: K, the positions that heads read.
        tokens: Length of prompt and answer, S.
        answer_tokens: Number of tokens at which the language model's head is applied.
        clip_s: Length of the clip in seconds.
    """
    inner: Any = model
    language_model = inner.model.language_model
    layers, width = language_model.layers, inner.lm_head.in_features
    dtype = inner.lm_head.weight.dtype

    mask: Any = CAUSAL
    if getattr(language_model.config, "layer_types", None) is None:  # one for all layers
        mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device="meta")

    def count(num_layers: int) -> tuple[float, float, float]:
        embedded_SH = torch.empty(1, tokens, width, dtype=dtype, device="meta", requires_grad=True)
        kept = _Kept(model, tokens)
        language_model.layers = layers[:num_layers]
        try:
            with FlopCounterMode(display=False, custom_mapping=GROUPED) as forward, kept:
                # The mask is given as the class would make it: making it reads values, of which
                # the meta device has none.
                states_SH = language_model(
                    inputs_embeds=embedded_SH, attention_mask=mask, use_cache=False
                ).last_hidden_state
                loss = inner.lm_head(states_SH[:, -answer_tokens:]).float().sum()
                for head in heads:
                    loss = loss + head(states_SH[:, :num_positions]).sum()
            with FlopCounterMode(display=False, custom_mapping=GROUPED) as backward:
                loss.backward()
        finally:
            language_model.layers = layers
        return (
            float(forward.get_total_flops()),
            float(backward.get_total_flops()),
            float(kept.total),
        )

    # All layers cost the same, so two are counted.
    first_layer, two_layers = count(1), count(2)
    a_layer = [second - first for first, second in zip(first_layer, two_layers, strict=True)]
    forward, backward, kept = (
        first + (len(layers) - 1) * more for first, more in zip(first_layer, a_layer, strict=True)
    )
    family = FAMILIES[model.config.model_type]
    tower_layers: Any = backbone.audio_tower(model).layers
    return StepCounts(
        tower_forward=count_tower(
            tower_layers, family.padded_seconds(clip_s), family.attends_s, family.tower_hz
        ),
        forward=forward,
        backward=backward,
        kept=kept,
        kept_with_checkpointing=first_layer[2] + len(layers) * tokens * width * dtype.itemsize,
        logits=float(answer_tokens * inner.lm_head.out_features * (dtype.itemsize + 4 + 4)),
    )


def count_tower(layers: nn.ModuleList, seconds: float, attends_s: float, tower_hz: float) -> float:
    """Counts the operations of an audio tower's layers over a length of audio.

    Each weight is used once per position, and each position attends to its own window.

    Args:
        layers: The layers of the tower.
        seconds: Length that the tower processes, padding included.
        attends_s: Length of the attention window in seconds.
        tower_hz: Positions per second.
    """
    num_weights = sum(value.numel() for value in layers.parameters() if value.dim() == 2)
    num_positions = seconds * tower_hz
    met = min(seconds, attends_s) * tower_hz
    width = next(value.shape[1] for value in layers.parameters() if value.dim() == 2)
    return num_positions * (2 * num_weights + len(layers) * 4 * met * width)


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that are saved for the backward pass, each storage once.

    Weights are excluded, and so are attention weights: kernels on GPUs recompute them, unlike the
    kernel of the meta device.
    """

    def __init__(self, model: nn.Module, tokens: int) -> None:
        self._seen: dict[int, int] = {}
        self._tensors: list[Tensor] = []
        own = {storage_identity(value) for value in model.parameters()}

        def keep(value: Tensor) -> Tensor:
            identity = storage_identity(value)
            is_attention = value.shape[-2:] == (tokens, tokens)
            if identity not in own and not is_attention:
                self._seen[identity] = value.untyped_storage().nbytes()
                self._tensors.append(value)  # so that no later storage has the same identity
            return value

        super().__init__(keep, lambda value: value)

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self._seen.values())
