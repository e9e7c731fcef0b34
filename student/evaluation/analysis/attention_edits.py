"""Hides audio or block from the text of a trained student, and measures its attention.

The rule is that of training (`student.model.bottleneck`): text is every position that is neither
audio nor thinking position, including generated tokens. Masks are edited at the input of every
decoder layer, so that generation and its cache do not change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from student.evaluation.analysis.state_edits import decoder_layers, thinking_places
from student.library_internals import attention_kernel
from student.model.bottleneck import as_attention_mask, check_kernel
from student.model.student import Student

# Legend: B prompts, S prompt tokens, Q queries, L keys, K thinking positions, H width.

Hidden = Literal["audio", "block"]
GROUPS = ("audio", "block", "text")


def position_groups(student: Student, ids_BS: Tensor) -> dict[str, Tensor]:
    """Returns boolean_BS of `audio`, `block` (the thinking positions) and `text`."""
    audio_BS = ids_BS == student.backbone.audio_token_id(student.base)
    block_BS = torch.zeros_like(audio_BS)
    if student.block is not None:
        block_BS = thinking_places(student, ids_BS)
    return {"audio": audio_BS, "block": block_BS, "text": ~(audio_BS | block_BS)}


@contextmanager
def hidden_from_text(
    student: Student, inputs: Mapping[str, Tensor], hidden: Hidden
) -> Iterator[None]:
    """A context in which text cannot attend to the audio tokens, or to the thinking positions.

    Args:
        student: A student whose attention kernel takes masks.
        inputs: The batch of prompts of one generation, padded on the left.
        hidden: The hidden group of positions.
    """
    check_kernel(student.base)
    groups = position_groups(student, inputs["input_ids"])
    text_BS, hidden_BS = groups["text"], groups[hidden]
    calls: dict[nn.Module, int] = defaultdict(int)

    def before(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        states_BQH = args[0] if args else kwargs["hidden_states"]
        num_queries = states_BQH.shape[1]
        length = calls[layer] = calls[layer] + num_queries
        new = length - text_BS.shape[1]
        blind_BQ = nn.functional.pad(text_BS, (0, new), value=True)[:, -num_queries:]
        hidden_BL = nn.functional.pad(hidden_BS, (0, new), value=False)
        allowed_BQL = ~(blind_BQ[:, :, None] & hidden_BL[:, None, :])
        mask = kwargs.get("attention_mask")
        if mask is None:
            causal_QL = torch.ones_like(allowed_BQL[0]).tril(length - num_queries)
            mask = as_attention_mask(allowed_BQL & causal_QL, student.base)
        elif mask.dtype == torch.bool:
            mask = mask & allowed_BQL[:, None]
        else:
            mask = mask.masked_fill(~allowed_BQL[:, None], torch.finfo(mask.dtype).min)
        return args, kwargs | {"attention_mask": mask}

    handles = [
        layer.register_forward_pre_hook(before, with_kwargs=True)
        for layer in decoder_layers(student)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def attention_shares(
    student: Student, batches: Sequence[dict[str, Tensor]]
) -> dict[str, list[float]]:
    """Returns each group's share of the attention at the last prompt position, by layer.

    Heads and prompts are averaged; the three shares of a layer sum to 1.
    """
    base: Any = student.base
    kernel = attention_kernel(base)
    totals: dict[str, Tensor] = {}
    count = 0
    base.set_attn_implementation("eager")
    try:
        for inputs in batches:
            outputs = base.model(
                **inputs,
                **student.backbone.positions(inputs),
                output_attentions=True,
                use_cache=False,
            )
            last_NBS = torch.stack(
                [layer[:, :, -1].float().mean(1) for layer in outputs.attentions]
            )
            count += last_NBS.shape[1]
            for group, places_BS in position_groups(student, inputs["input_ids"]).items():
                shares_N = (last_NBS * places_BS).sum((1, 2)).cpu()
                totals[group] = totals.get(group, torch.zeros_like(shares_N)) + shares_N
    finally:
        base.set_attn_implementation(kernel)
    return {group: (shares_N / count).tolist() for group, shares_N in totals.items()}


@torch.no_grad()
def block_states(student: Student, inputs: dict[str, Tensor]) -> Tensor:
    """Returns states_BKH of the thinking positions at the layer that the heads read."""
    outputs = student.base.model(
        **inputs, **student.backbone.positions(inputs), output_hidden_states=True, use_cache=False
    )
    states_BSH = outputs.hidden_states[student.head_layer].float().cpu()
    places_BS = thinking_places(student, inputs["input_ids"]).cpu()
    return states_BSH[places_BS].view(len(states_BSH), -1, states_BSH.shape[-1])


def collapse(states_CKH: Tensor, with_other_audio_CKH: Tensor) -> dict[str, float]:
    """Measures how much the block's states depend on the clip.

    Args:
        states_CKH: States for C questions about their own clips.
        with_other_audio_CKH: States for the same questions about other clips.

    Returns:
        `cosine_between_clips`: mean over positions and pairs of clips, 1 if all clips give the same
        states. `change_with_other_audio`: mean distance between the two states of a question,
        divided by the states' mean norm, 0 if audio does not matter.
    """
    unit_KCH = nn.functional.normalize(states_CKH, dim=-1).transpose(0, 1)
    cosine_KCC = unit_KCH @ unit_KCH.transpose(1, 2)
    num_clips = len(states_CKH)
    pairs = num_clips * (num_clips - 1)
    between = (cosine_KCC.sum((1, 2)) - num_clips) / max(pairs, 1)
    change = (states_CKH - with_other_audio_CKH).norm(dim=-1).mean()
    return {
        "cosine_between_clips": float(between.mean()),
        "change_with_other_audio": float(change / states_CKH.norm(dim=-1).mean()),
    }
