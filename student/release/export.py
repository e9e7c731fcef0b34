"""A trained run as a plain checkpoint: no code of ours is needed to load or serve it.

LoRA is merged, the block's embedding rows are written into the table, heads are dropped, the block
is kept from being said, and tokenizer and chat template carry the block. The export proves itself:
the checkpoint is loaded again by stock classes, and its logits on held-out prompts are compared
with the trained model's. A model card says what it was made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from manifests.errors import UserError
from student.inference.generate import TrainedStudent
from student.release.card import model_card

# Legend: S tokens, V vocabulary.

PROMPTS = 4
"""Held-out prompts on which an export is proved."""
TOLERANCE = 1e-4
"""Largest difference of a float32 logit."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How close a reloaded checkpoint is to the trained model."""

    prompts: int
    largest_difference: float
    """Of any logit at any position, the block's own columns left out."""
    same_choice: float
    """Share of positions at which both choose the same token."""
    block_margin: float
    """By how much the best token beats the best block token, at the least."""

    @property
    def holds(self) -> bool:
        """Whether the two are the same model up to rounding."""
        return self.largest_difference <= TOLERANCE


def export(run: str | Path, out: str | Path) -> Proof:
    """Writes the checkpoint of a run and compares it with the run.

    Args:
        run: Folder of a run with a finished stage.
        out: Folder of the checkpoint; must not exist.

    Raises:
        UserError: no finished stage, `out` exists, or the held-out audio is gone.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists; choose another --out")
    trained = TrainedStudent(run, quantize=False)
    prompts = [
        trained.inputs([example.messages], [[trained.load_audio(clip) for clip in clips]])
        for example, clips in islice(trained.run.held_out(), PROMPTS)
    ]
    expected = [_logits(trained.student.base, inputs) for inputs in prompts]
    block_ids = list(trained.student.block.ids) if trained.student.block else []
    model: Any = trained.student.model
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    joint = trained.recipe.joint
    if joint is None or joint.train != "full":
        # A full training has taught the head not to say them; here it has never met them.
        _untie(model)
        with torch.no_grad():
            model.lm_head.weight[block_ids] = 0.0
    model.generation_config.suppress_tokens = block_ids or None
    base = trained.recipe.model.path or ""
    trained.student.backbone.save(model, trained.processor, out, base)

    reloaded, _ = trained.student.backbone.load(str(out), dtype=model.dtype)
    reloaded.to(model.device).eval()
    found = [_logits(reloaded, inputs) for inputs in prompts]
    proof = _compare(expected, found, block_ids)
    (out / "README.md").write_text(model_card(trained.run, describe(proof)), encoding="utf-8")
    return proof


def _untie(model: Any) -> None:
    """Gives the head a table of its own: the block's rows are silent there, but not as inputs."""
    if model.lm_head.weight is model.get_input_embeddings().weight:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """logits_SV of one prompt, float32, on the CPU."""
    return model(**inputs).logits[0].float().cpu()


def _compare(expected: list[Tensor], found: list[Tensor], block_ids: list[int]) -> Proof:
    differences, same, margins = [], [], []
    for expected_SV, found_SV in zip(expected, found, strict=True):
        words = torch.ones(expected_SV.shape[1], dtype=torch.bool)
        words[block_ids] = False
        differences.append((expected_SV - found_SV)[:, words].abs().max())
        choice_S = found_SV[:, words].argmax(-1)
        same.append((expected_SV[:, words].argmax(-1) == choice_S).float().mean())
        if block_ids:
            best_S = found_SV[:, words].max(-1).values
            margins.append((best_S - found_SV[:, block_ids].max(-1).values).min())
    return Proof(
        prompts=len(found),
        largest_difference=float(torch.stack(differences).max()),
        same_choice=float(torch.stack(same).mean()),
        block_margin=float(torch.stack(margins).min()) if margins else float("inf"),
    )


def describe(proof: Proof) -> str:
    """The proof in one sentence."""
    return (
        f"on {proof.prompts} held-out prompts the largest logit difference is "
        f"{proof.largest_difference:.2e}, both choose the same token at {proof.same_choice:.1%} of "
        f"positions, and block tokens are at least {proof.block_margin:.2f} below the best"
    )
