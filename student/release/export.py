"""Exports a trained run as a plain checkpoint that can be loaded and served without this project.

LoRA is merged, the block's embedding rows are written to the table, heads are dropped, generation
of block tokens is suppressed, and tokenizer and chat template contain the block. The export is
verified: the checkpoint is loaded again with unmodified classes, and its logits on held-out prompts
are compared with those of the trained model. A model card describes the sources.
"""

from __future__ import annotations

import gc
import math
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig

from manifests.errors import UserError
from manifests.progress import Advance, progress
from student.inference.generate import TrainedStudent, reply_ends
from student.release.card import model_card

# Legend: S tokens, V vocabulary.

OWN_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
              "suppress_tokens")  # fmt: skip
"""Settings that every generation config has, or that an export sets itself."""
MODES = ("do_sample", "num_beams", "return_dict_in_generate")
"""Settings that decide whether other settings have an effect."""
PROMPTS = 4
"""Number of held-out prompts on which an export is verified."""
MAX_TRIED = 64
"""Held-out examples that are tried, because the audio of some may be unreadable."""
FLOAT32_TOLERANCE = 1e-4
"""Maximum difference of a float32 logit."""
ROUNDINGS = 8
"""Maximum difference of a logit in half precision, in rounding steps of its dtype at the largest
logit: merged weights are rounded again, and errors accumulate over layers."""
KL_LIMITS = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
"""Maximum mean KL divergence of the next token's distribution, in nats, by dtype."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Differences between a reloaded checkpoint and the trained model."""

    prompts: int
    dtype: str
    """Precision of the weights, e.g. `bfloat16`."""
    largest_difference: float
    """Largest difference of any logit at any position, excluding the block's own columns."""
    tolerance: float
    """Maximum difference that rounding in this dtype explains."""
    divergence: float
    """Mean KL divergence of the next token's distribution, in nats."""
    divergence_limit: float
    same_choice: float
    """Share of positions at which both have the same most likely token."""
    lost_margin: float
    """Largest margin by which the trained model prefers its token where the two differ; 0 if they
    never differ."""
    block_margin: float
    """Smallest margin of the best token over the best block token."""

    @property
    def holds(self) -> bool:
        """Whether the two models agree up to rounding: logits and distributions are close, and the
        most likely tokens differ only if they are nearly tied."""
        return (
            self.largest_difference <= self.tolerance
            and self.divergence <= self.divergence_limit
            and self.lost_margin <= 2 * self.tolerance
        )


def export(run: str | Path, out: str | Path) -> Proof:
    """Writes the checkpoint of a run and compares it with the run.

    Only one model is in memory at a time. The checkpoint is written next to `out` and renamed when
    it is complete.

    Args:
        run: Folder of a run with a finished stage.
        out: Folder of the checkpoint, which must not exist.

    Raises:
        UserError: the run has no finished stage, `out` exists, or no held-out audio can be read.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists; name another folder for the export")
    part = out.with_name(f"{out.name}.part")
    if part.exists():
        shutil.rmtree(part)  # left by an export that was interrupted
    try:
        with progress("export", 3, "steps: load and merge, write, read again") as advance:
            return _export(run, out, part, advance)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # a full disk has its space back
        raise


def _export(run: str | Path, out: Path, part: Path, advance: Advance) -> Proof:
    trained = TrainedStudent(run, quantize=False)
    files, backbone = trained.run, trained.student.backbone
    prompts = _held_out_prompts(trained)
    expected = [_logits(trained.student.base, inputs) for inputs in prompts]
    advance()
    block_ids = list(trained.student.block.ids) if trained.student.block else []
    dtype, device, inherited = _write(trained, block_ids, part)
    advance()
    del trained
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    reloaded: Any = backbone.load(str(part), dtype=dtype)[0]
    reloaded.to(device).eval()
    actual = [_logits(reloaded, inputs) for inputs in prompts]
    proof = _compare(expected, actual, block_ids, dtype)
    card = model_card(files, describe(proof), inherited=inherited)
    (part / "README.md").write_text(card, encoding="utf-8")
    mode = (part / "README.md").stat().st_mode
    for weights in part.glob("*.safetensors"):
        weights.chmod(mode)  # safetensors lets only their owner read them
    part.rename(out)
    advance()
    return proof


def _held_out_prompts(trained: TrainedStudent) -> list[dict[str, Tensor]]:
    """The first held-out prompts whose audio can be read."""
    prompts: list[dict[str, Tensor]] = []
    unreadable = ""
    for example, clips in islice(trained.run.held_out(), MAX_TRIED):
        try:
            waves = [trained.load_audio(clip) for clip in clips]
        except UserError as error:
            unreadable = unreadable or str(error)
            continue
        prompts.append(trained.inputs([example.messages], [waves]))
        if len(prompts) == PROMPTS:
            break
    if not prompts:
        raise UserError(
            f"{trained.run.held_out_file} has no example on which the export can be verified: "
            f"{unreadable or 'it is empty'}"
        )
    return prompts


def _write(
    trained: TrainedStudent, block_ids: list[int], folder: Path
) -> tuple[torch.dtype, torch.device, dict[str, Any]]:
    """Writes the merged model; its dtype, its device and what it inherits for generation."""
    model: Any = trained.student.model
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    joint = trained.recipe.joint
    if joint is None or joint.train != "full":
        # With full training, the head has learned to avoid block tokens; here it was not trained on
        # them.
        _untie(model)
        with torch.no_grad():
            model.lm_head.weight[block_ids] = 0.0
    inherited = _settle_generation(model)
    ends = reply_ends(model.generation_config, trained.prompter.turn_end)
    model.generation_config.eos_token_id = ends or None
    if block_ids:
        model.generation_config.suppress_tokens = block_ids
    base = trained.recipe.model.path or ""
    trained.student.backbone.save(model, trained.processor, folder, base)
    return model.dtype, model.device, inherited


def _settle_generation(model: Any) -> dict[str, Any]:
    """Makes the generation config valid for saving, and returns its settings without token ids.

    transformers reads a config whose settings have no effect (a temperature without sampling, a
    length penalty without beams), but refuses to save it.
    """
    config = model.generation_config
    default = GenerationConfig()
    fields = {name: value for name, value in config.to_diff_dict().items()
              if name not in OWN_TOKENS and name != "transformers_version"}  # fmt: skip
    modes = {name: getattr(config, name) for name in MODES}
    for name in [name for name in fields if name not in MODES]:
        if not _can_be_saved(modes | {name: fields[name]}):
            setattr(config, name, getattr(default, name, None))
            del fields[name]
    return {name: value for name, value in fields.items() if not name.startswith("_")}


def _can_be_saved(fields: dict[str, Any]) -> bool:
    try:
        GenerationConfig(**fields).validate(strict=True)
    except (ValueError, TypeError):
        return False
    return True


def _untie(model: Any) -> None:
    """Unties the head from the embedding table, because the block's rows are zero only in the
    head."""
    if model.lm_head.weight is model.get_input_embeddings().weight:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """logits_SV of one prompt, float32, on the CPU."""
    return model(**inputs).logits[0].float().cpu()


def _compare(
    expected: list[Tensor], actual: list[Tensor], block_ids: list[int], dtype: torch.dtype
) -> Proof:
    differences, same, margins, divergences, lost = [], [], [], [], []
    scale = max(float(expected_SV.abs().max()) for expected_SV in expected)
    half = ROUNDINGS * torch.finfo(dtype).eps * scale
    for expected_SV, actual_SV in zip(expected, actual, strict=True):
        words = torch.ones(expected_SV.shape[1], dtype=torch.bool)
        words[block_ids] = False
        ours_SV, theirs_SV = expected_SV[:, words], actual_SV[:, words]
        differences.append((ours_SV - theirs_SV).abs().max())
        choice_S = theirs_SV.argmax(-1)
        same.append((ours_SV.argmax(-1) == choice_S).float())
        chosen_S = ours_SV.gather(1, choice_S[:, None])[:, 0]
        lost.append((ours_SV.max(-1).values - chosen_S).max())
        ours_SV, theirs_SV = ours_SV.double().log_softmax(-1), theirs_SV.double().log_softmax(-1)
        divergences.append((ours_SV.exp() * (ours_SV - theirs_SV)).sum(-1))
        if block_ids:
            best_S = actual_SV[:, words].max(-1).values
            margins.append((best_S - actual_SV[:, block_ids].max(-1).values).min())
    return Proof(
        prompts=len(actual),
        dtype=str(dtype).removeprefix("torch."),
        largest_difference=float(torch.stack(differences).max()),
        tolerance=FLOAT32_TOLERANCE if dtype == torch.float32 else half,
        divergence=float(torch.cat(divergences).mean()),
        divergence_limit=KL_LIMITS.get(dtype, KL_LIMITS[torch.bfloat16]),
        same_choice=float(torch.cat(same).mean()),
        lost_margin=float(torch.stack(lost).max()),
        block_margin=float(torch.stack(margins).min()) if margins else float("inf"),
    )


def describe(proof: Proof) -> str:
    """Describes the proof in one sentence."""
    return (
        f"on {proof.prompts} held-out prompts the largest logit difference is "
        f"{proof.largest_difference:.2e} (rounding in {proof.dtype} explains "
        f"{proof.tolerance:.2e}), the mean divergence of the next token is {proof.divergence:.1e} "
        f"nats, and both choose the same token at {proof.same_choice:.1%} of positions"
        + (
            f"; block tokens are at least {proof.block_margin:.2f} below the best"
            if math.isfinite(proof.block_margin)
            else ""
        )
        + ("" if proof.holds else "; this is MORE than rounding errors explain")
    )
