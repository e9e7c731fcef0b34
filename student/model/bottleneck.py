"""The bottleneck: text attends to the audio only through the block's thinking positions.

In the first part of training, neither question nor answer can attend to audio tokens. Only the
thinking positions can, so they must contain the information for the answer (LIVR, arXiv
2512.21218). Afterwards attention is unrestricted, as in inference, so exports need no change. The
same rule hides audio or block from a trained student, to test what its answers depend on.

The rule is one 4-D mask for padded and packed rows, with padding on either side; it needs a kernel
that supports arbitrary masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from manifests.errors import UserError
from student.batch import IGNORE
from student.config import Blinded
from student.library_internals import attention_kernel

# Legend: B rows, S tokens (queries or keys).

KERNELS = ("sdpa", "eager")
"""Attention kernels of transformers that support a mask per query and key."""


def check_kernel(model: PreTrainedModel) -> None:
    """Rejects a kernel that would ignore the mask or fail at the first step.

    Raises:
        UserError: the kernel does not support masks.
    """
    kernel = attention_kernel(model)
    if kernel not in KERNELS:
        raise UserError(
            f"the bottleneck hides audio tokens by a mask, which the attention kernel {kernel!r} "
            f"cannot take; set model.attention to {' or '.join(KERNELS)}, or joint.bottleneck to 0"
        )


def text_that_is_blind(
    ids_BS: Tensor,
    labels_BS: Tensor,
    *,
    audio_id: int,
    content_ids: Sequence[int],
    blinds: Blinded = "question_and_answer",
) -> Tensor:
    """Boolean_BS: the positions that must not attend to audio.

    The block's start and end markers are text: the first word of an answer is predicted at the
    marker before it.

    Args:
        ids_BS: Tokens of padded or packed rows.
        labels_BS: Labels, which mark the positions of answers.
        audio_id: The placeholder of audio tokens.
        content_ids: The block's thinking positions.
        blinds: All text, or the positions that predict an answer.
    """
    if blinds == "answer":
        answer_BS = labels_BS != IGNORE
        predicts_BS = torch.zeros_like(answer_BS)
        predicts_BS[:, :-1] = answer_BS[:, 1:]
        return answer_BS | predicts_BS
    sees = torch.tensor([audio_id, *content_ids], device=ids_BS.device)
    return ~torch.isin(ids_BS, sees)


def visible(inputs: dict[str, Tensor], *, blind_BS: Tensor, hidden_BS: Tensor) -> Tensor:
    """Boolean_BSS, query by key: causal, within each example, and blind positions do not attend to
    hidden ones.

    Every position, including padding, attends to itself, so that no row of the softmax is empty.

    Args:
        inputs: Padded rows with `attention_mask`, or one packed row with `position_ids`, which
            restart with each example.
        blind_BS: Positions that must not attend to the hidden ones.
        hidden_BS: Positions that are hidden from them.
    """
    length = inputs["input_ids"].shape[1]
    device = inputs["input_ids"].device
    visible_BSS = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None]
    if "position_ids" in inputs:
        example_BS = (inputs["position_ids"] == 0).cumsum(-1)
        visible_BSS = visible_BSS & (example_BS[:, :, None] == example_BS[:, None, :])
    else:
        visible_BSS = visible_BSS & inputs["attention_mask"].bool()[:, None, :]
    visible_BSS = visible_BSS & ~(blind_BS[:, :, None] & hidden_BS[:, None, :])
    return visible_BSS | torch.eye(length, dtype=torch.bool, device=device)


def as_attention_mask(visible_BSS: Tensor, model: PreTrainedModel) -> Tensor:
    """Converts a mask to mask_B1SS in the format of the model's attention kernel.

    `sdpa` takes booleans; `eager` adds numbers to the scores.
    """
    mask_B1SS = visible_BSS[:, None]
    if attention_kernel(model) == "sdpa":
        return mask_B1SS
    scores_B1SS = torch.zeros(mask_B1SS.shape, device=mask_B1SS.device)
    return scores_B1SS.masked_fill(~mask_B1SS, torch.finfo(scores_B1SS.dtype).min)


@contextmanager
def constant_keys_and_values(model: PreTrainedModel, places_BS: Tensor) -> Iterator[None]:
    """A context in which losses cannot change the keys and values of some positions.

    Args:
        model: A backbone whose language model has the projections `k_proj` and `v_proj`.
        places_BS: The positions.
    """

    def constant(module: Any, args: Any, output_BSC: Tensor) -> Tensor:
        return torch.where(places_BS[..., None], output_BSC.detach(), output_BSC)

    language_model: Any = model.model
    handles = [
        projection.register_forward_hook(constant)
        for layer in language_model.language_model.layers
        for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
