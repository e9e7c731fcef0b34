"""The block of thinking positions: its tokens, its place in the prompt, and its embedding rows.

The block is part of the prompt: `<|audio_think_start|>`, K content tokens, `<|audio_think_end|>`.
Each content token has its own embedding row, so that an exported model needs no additional code;
the chat template writes the block at every generation prompt. If a long clip has several blocks,
the same tokens are repeated. A template does not know the length of the audio, so the number of
blocks is passed to it (`thinking_blocks`).
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from manifests.errors import UserError
from student.config import Placement

START = "<|audio_think_start|>"
END = "<|audio_think_end|>"
BLOCKS_ARGUMENT = "thinking_blocks"
"""Argument of a chat template with the number of blocks; the default is 1."""


def content_token(position: int) -> str:
    """The token of one thinking position."""
    return f"<|audio_think_{position}|>"


def block_tokens(num_positions: int) -> list[str]:
    """All K + 2 tokens, in prompt order."""
    return [START, *map(content_token, range(num_positions)), END]


@dataclass(frozen=True, kw_only=True)
class Block:
    """The block of one model: ids in its tokenizer."""

    ids: tuple[int, ...]
    """Start, K content tokens, end."""

    @property
    def content_ids(self) -> tuple[int, ...]:
        """Ids of the thinking positions alone."""
        return self.ids[1:-1]


def add_block(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_positions: int
) -> Block:
    """Adds the block's tokens to the tokenizer, and embedding rows for them to the model.

    New rows are drawn around the mean of the table, with one tenth of its standard deviation, from
    torch's generator. The tables never shrink, because checkpoints may have more rows than their
    tokenizer has tokens. A checkpoint that already has the block, such as an export, keeps its
    rows.

    Raises:
        UserError: the checkpoint's own block has another number of positions.
    """
    tokens = block_tokens(num_positions)
    known = count_positions(tokenizer)
    if known is not None:
        if known != num_positions:
            raise UserError(
                f"the checkpoint has a block of {known} positions, and block.tokens is "
                f"{num_positions}; set block.tokens to {known}, or start from a checkpoint without "
                "a block"
            )
        return Block(ids=tuple(tokenizer.get_vocab()[token] for token in tokens))
    tokenizer.add_special_tokens(
        {"extra_special_tokens": tokens}, replace_extra_special_tokens=False
    )
    ids = tuple(tokenizer.get_vocab()[token] for token in tokens)
    table = _weight(model.get_input_embeddings())
    num_base_rows = len(table)
    if max(ids) >= num_base_rows:
        model.resize_token_embeddings(max(num_base_rows, len(tokenizer)), mean_resizing=False)
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    for table_VH in dict.fromkeys((_weight(model.get_input_embeddings()), _weight(head))):
        _start_rows(table_VH, ids)
    return Block(ids=ids)


def count_positions(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """K of the block that a tokenizer has; None if it has none."""
    vocabulary = tokenizer.get_vocab()
    if START not in vocabulary:
        return None
    return next(k for k in itertools.count() if content_token(k) not in vocabulary)


@torch.no_grad()
def _start_rows(table_VH: torch.Tensor, ids: tuple[int, ...]) -> None:
    base_VH = table_VH[: min(ids)].float()
    mean_H, std_H = base_VH.mean(0), base_VH.std(0)
    noise_KH = torch.randn(len(ids), table_VH.shape[1]).to(mean_H.device)
    table_VH[list(ids)] = (mean_H + 0.1 * std_H * noise_KH).to(table_VH.dtype)


def _weight(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def count_blocks(seconds: float, block_seconds: float | None) -> int:
    """Number of blocks of an audio, one for each part of at most `block_seconds`."""
    if block_seconds is None:
        return 1
    return max(1, math.ceil(seconds / block_seconds - 1e-6))


def block_seconds(template: str) -> float | None:
    """The `block.seconds` with which a chat template was made."""
    match = re.search(r"\{# one block for each (\S+) s of audio #\}", template)
    return float(match[1]) if match else None


def template_with_block(
    template: str,
    num_positions: int,
    *,
    placement: Placement,
    audio_end: str,
    seconds: float | None = None,
) -> str:
    """Extends a chat template so that it writes the block with `add_generation_prompt`.

    The original template is not changed otherwise, so that earlier turns have the checkpoint's
    format.

    Args:
        template: Jinja source of the checkpoint's own template.
        num_positions: K.
        placement: Place of the block: the end of the prompt, or after the last audio.
        audio_end: Text that ends an audio in the rendered prompt.
        seconds: Seconds of audio per block; None always writes one block.

    Raises:
        UserError: the template already has a block of another length or at another place.
    """
    if START in template:
        stripped = template_without_block(template)
        expected = template_with_block(
            stripped, num_positions, placement=placement, audio_end=audio_end, seconds=seconds
        )
        if expected != template:
            raise UserError(
                f"the checkpoint has a block at another place than block.placement={placement}, of "
                f"another length than block.tokens={num_positions}, or another block.seconds than "
                f"{seconds}; use those that it was trained with"
            )
        return template
    block = "".join(block_tokens(num_positions))
    written, after, note = block, repr(audio_end + block), ""
    if seconds is not None:
        blocks = f"{block!r} * ({BLOCKS_ARGUMENT} | default(1))"
        note = f"{{# one block for each {seconds:g} s of audio #}}"
        written, after = f"{{{{ {blocks} }}}}{note}", f"{audio_end!r} + {blocks}"
    if placement == "before_response":
        return template + "{% if add_generation_prompt %}" + written + "{% endif %}"
    return (
        "{% set rendered %}" + template + "{% endset %}"
        f"{{% if add_generation_prompt and {audio_end!r} in rendered %}}"
        f"{{% set around = rendered.rsplit({audio_end!r}, 1) %}}"
        f"{{{{ around[0] + {after} + around[1] }}}}{note}"
        "{% else %}{{ rendered }}{% endif %}"
    )


def template_without_block(template: str) -> str:
    """Removes the block from a chat template; a template without a block is not changed.

    Raises:
        UserError: the template has a block that was not written by `template_with_block`.
    """
    if START not in template:
        return template
    block = re.escape(START) + r"(?:<\|audio_think_\d+\|>)+" + re.escape(END)
    several = rf"\{{\{{ '{block}' \* \({BLOCKS_ARGUMENT} \| default\(1\)\) \}}\}}\{{#[^#]*#\}}"
    last = re.compile(
        r"(.*)\{% if add_generation_prompt %\}(?:" + block + "|" + several + r")\{% endif %\}",
        re.DOTALL,
    )
    around = re.compile(r"\{% set rendered %\}(.*)\{% endset %\}\{% if .*", re.DOTALL)
    match = last.fullmatch(template) or around.fullmatch(template)
    if match is None or START in match[1]:
        raise UserError(
            "the checkpoint's chat template writes a thinking block in a way that is not ours; "
            "start from the checkpoint that it was made from"
        )
    return match[1]
