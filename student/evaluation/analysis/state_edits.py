"""Replaces the hidden states at the thinking positions while a student processes its prompt.

The Token Replacement Test (arXiv 2605.21642) changes nothing else: tokens, positions, attention and
audio stay. The response reads keys and values of the block, which each decoder layer computes from
its input states. The states are therefore replaced at the input of every decoder layer, including
the embeddings: with a single layer, the block's positions would attend to the audio again in the
next one and recover the information. With a larger `first_layer`, lower layers keep their states:
from the head layer on, only the states that the heads supervise are replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from manifests.errors import UserError
from student.evaluation.questions import Question
from student.inference.generate import TrainedStudent
from student.model.block import count_blocks
from student.model.student import Student

# Legend: B prompts, S tokens, K thinking positions, H width.

Replacement = Literal["zero", "random", "other clip", "first repeated"]
REPLACEMENTS: tuple[Replacement, ...] = get_args(Replacement)


def check_one_block(trained: TrainedStudent, questions: Iterable[Question]) -> None:
    """Rejects questions about audio that is known to have several blocks.

    Raises:
        UserError: states cannot be compared position by position.
    """
    seconds = trained.recipe.block.span_seconds
    if trained.student.block is None or seconds is None:
        return
    for question in questions:
        if question.duration is not None and count_blocks(question.duration, seconds) > 1:
            raise _several_blocks(f"question {question.id} is about {question.duration:.1f} s")


def _several_blocks(what: str) -> UserError:
    return UserError(
        "states are compared and replaced position by position, so every prompt must have one "
        f"block; {what}, which has several blocks in this run (block.seconds, "
        "block.position_seconds). Use questions about shorter audio, or a run with one block per "
        "clip"
    )


def decoder_layers(student: Student) -> list[nn.Module]:
    """The layers of the language model in order."""
    base: Any = student.base.model
    return list(base.language_model.layers)


def thinking_places(student: Student, ids_BS: Tensor) -> Tensor:
    """Boolean_BS: whether a token is a thinking position.

    Raises:
        UserError: a prompt has several blocks.
    """
    assert student.block is not None
    content = torch.tensor(student.block.content_ids, device=ids_BS.device)
    places_BS = torch.isin(ids_BS, content)
    if (places_BS.sum(-1) > len(content)).any():
        raise _several_blocks("a prompt has longer audio")
    return places_BS


@contextmanager
def entering_states(student: Student, change: Any, *, first_layer: int = 0) -> Iterator[None]:
    """Calls `change(layer, states_BSH)` for the input states of each decoder layer."""
    handles = []

    def hook(number: int) -> Any:
        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            del module
            if args:
                return (change(number, args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": change(number, kwargs["hidden_states"])}

        return before

    for number, layer in enumerate(decoder_layers(student)):
        if number >= first_layer:
            handles.append(layer.register_forward_pre_hook(hook(number), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(
    student: Student,
    inputs: dict[str, Tensor],
    kind: Replacement,
    *,
    source: dict[str, Tensor] | None = None,
    first_layer: int = 0,
    seed: int = 0,
) -> Iterator[None]:
    """A context in which a student has other states at its block while it processes `inputs`.

    Args:
        student: A student with a block. inputs: The batch to be processed; later generation steps
            are not changed. kind: `zero`; `random` directions of the same norm; `other clip`: the
            states of the prompts in `source` at the same layer and position; `first repeated`: the
            state of the first position at all positions.
        source: For `other clip`, as many prompts as in `inputs`, about other recordings.
        first_layer: First decoder layer whose input states are replaced.
        seed: Seed of random directions.
    """
    read = inputs if source is None else source
    places_BS = thinking_places(student, inputs["input_ids"])
    read_places_BS = thinking_places(student, read["input_ids"])
    batch, length = places_BS.shape
    generator = torch.Generator().manual_seed(seed)
    intact: dict[int, Tensor] = {}

    def keep(layer: int, states_BSH: Tensor) -> Tensor:
        intact[layer] = states_BSH[read_places_BS].view(batch, -1, states_BSH.shape[-1]).clone()
        return states_BSH

    def change(layer: int, states_BSH: Tensor) -> Tensor:
        if states_BSH.shape[1] != length:
            return states_BSH
        new_BKH = _replacement(intact[layer], kind, generator)
        states_BSH = states_BSH.clone()
        states_BSH[places_BS] = new_BKH.flatten(0, 1)
        return states_BSH

    with entering_states(student, keep, first_layer=first_layer), torch.no_grad():
        student.base.model(**read, **student.backbone.positions(read), use_cache=False)
    with entering_states(student, change, first_layer=first_layer):
        yield


def _replacement(intact_BKH: Tensor, kind: Replacement, generator: torch.Generator) -> Tensor:
    if kind == "zero":
        return torch.zeros_like(intact_BKH)
    if kind == "random":
        drawn_BKH = torch.randn(intact_BKH.shape, generator=generator).to(intact_BKH)
        norms_BK1 = intact_BKH.norm(dim=-1, keepdim=True)
        return drawn_BKH / drawn_BKH.norm(dim=-1, keepdim=True) * norms_BK1
    if kind == "other clip":
        return intact_BKH
    return intact_BKH[:, :1].expand_as(intact_BKH)
