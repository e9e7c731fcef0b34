"""Measures time and memory of a step at 7B, and the time that the block adds to an answer.

For each backbone at true size with random weights, 10 s of audio and K = 32: a LoRA step of each
arm beside sft (goal: coat at most 1.10), peak memory, and model FLOPs utilisation, which is counted
operations over time and the card's peak (goal 0.45); the same with checkpointing, packing and flash
attention; QLoRA with the memory capped at 24 GB; time to the first token and per further token with
the block and without (goals 1.05 and 1.00), at batch 1 and 32.
"""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import torch

from benchmarks.gpu.backbones import PATHS, build, build_recipe, load_bare
from benchmarks.gpu.record import Record, card, device, measure_seconds
from benchmarks.student_computed import joint_flops
from benchmarks.student_setup import ANSWER, QUESTION, build_batch, build_streams, wave
from student.batch import collate_audio, pad_prompts
from student.data.examples import ask
from student.data.prompts import Prompter
from student.model.student import set_template
from student.plan.checkpoints import FAMILIES
from student.plan.gpus import GPUS
from student.train import count_targets, step_losses

BATCH, ROUNDS = 8, 4
CAP_GB = 24.0
CONTEXT_GB = 1.0
"""Memory of CUDA itself, in addition to tensors."""


def run(record: Record, *, toy: bool) -> None:
    """Measures steps first, then answers."""
    batch, counts = (1, (2,)) if toy else (BATCH, (1, 32))
    # A toy run executes every line: one arm with all streams per family, all arms for one family.
    arms = ("coat",) if toy else ("sft", "pause", "distill", "coat")
    first = next(iter(FAMILIES))
    sides = itertools.product(FAMILIES, arms)
    for family, arm in [*sides, *((first, arm) for arm in ("sft", "distill") if toy)]:
        record.measure({"backbone": family, "what": f"step, {arm}", "batch": batch},
                       lambda: _step(family, arm, batch, toy=toy))  # fmt: skip # noqa: B023
    variants: dict[str, dict[str, Any]] = {
        "checkpointing": {"checkpointing": True},
        "packed": {"packed": True},
    }
    if importlib.util.find_spec("flash_attn"):
        variants["flash attention, packed"] = {"packed": True, "attention": "flash_attention_2"}
    varied = (first,) if toy else tuple(FAMILIES)
    for family, (name, variant) in itertools.product(varied, variants.items()):
        record.measure({"backbone": family, "what": f"step, coat, {name}", "batch": batch},
                       lambda: _step(family, "coat", batch, toy=toy, **variant))  # fmt: skip # noqa: B023
    if torch.cuda.is_available() and importlib.util.find_spec("bitsandbytes"):
        for family in FAMILIES:
            record.measure(
                {"backbone": family, "what": f"step, coat, 4 bits in {CAP_GB:g} GB", "batch": 1},
                lambda: _measure_capped(family),  # noqa: B023
            )
    for family, arm, count in itertools.product(varied, ("base", "coat"), counts):
        record.measure({"backbone": family, "what": f"answer, {arm}", "batch": count},
                       lambda: _answer(family, arm, count, toy=toy))  # fmt: skip # noqa: B023
    record.finish(f"random weights, 10 s of audio, batches of {batch}")


def _step(
    family: str, arm: str, size: int, *, toy: bool, packed: bool = False,
    checkpointing: bool = False, attention: str = "", four_bits: bool = False,
) -> dict[str, Any]:  # fmt: skip
    student, prompter, recipe = build(
        family, arm, toy=toy, attention=attention, four_bits=four_bits
    )
    student.train()
    if checkpointing:
        student.base.gradient_checkpointing_enable({"use_reentrant": False})
    streams = build_streams(recipe)
    batch = build_batch(student, prompter, recipe, size, packed=packed).to(device())
    counts = count_targets(batch, streams=streams)
    learning = [each for each in student.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4)
    losses: list[float] = []

    def step() -> None:
        with torch.autocast(device(), torch.bfloat16):
            _, loss = step_losses(student, batch, counts, recipe=recipe, streams=streams,
                                  stage="joint")  # fmt: skip
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    took_s = measure_seconds(step, 1 if toy else ROUNDS)
    result: dict[str, Any] = {
        "seconds": took_s,
        "examples per s": size / took_s,
        "tokens": batch.inputs["input_ids"].numel() // size,
        "loss": losses[-1],
    }
    if torch.cuda.is_available():
        result["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
        peak = _peak_flops()
        if peak:
            result["utilisation"] = joint_flops(PATHS[family], arm) * size / took_s / peak
    return result


def _peak_flops() -> float | None:
    """Returns the GPU's bfloat16 peak, if the table has it."""
    name = card().lower()
    known = {"h200": "h200", "h100 pcie": "h100-pcie", "h100": "h100", "a100-sxm4-80": "a100-80",
             "a100": "a100-40", "l40s": "l40s", "rtx 4090": "rtx4090", "rtx 3090": "rtx3090",
             "l4": "l4", "a10": "a10", "b200": "b200"}  # fmt: skip
    for part, key in known.items():
        if part in name:
            return GPUS[key].tflops * 1e12
    return None


def _measure_capped(family: str) -> dict[str, Any]:
    """Measures a QLoRA step, whose peak must fit into a small GPU."""
    result = _step(family, "coat", 1, toy=False, checkpointing=True, four_bits=True)
    return result | {"fits": bool(result["peak GB"] + CONTEXT_GB < CAP_GB)}


def _answer(family: str, arm: str, count: int, *, toy: bool) -> dict[str, Any]:
    """Measures the seconds to the first token, and per further token."""
    if arm == "coat":
        student, prompter, _ = build(family, arm, toy=toy)
        model = student.model.merge_and_unload().eval()  # pyright: ignore
    else:
        backbone, model, processor = load_bare(family, toy=toy)
        set_template(processor, build_recipe("sft", toy=toy), backbone.audio_end)
        prompter = Prompter(backbone, processor)
    prepared = prompter.prompt(ask(QUESTION), [wave()])
    ids_S = prepared.pop("input_ids")[0]
    prepared.pop("attention_mask", None)
    inputs = pad_prompts([ids_S] * count, pad_id=0) | collate_audio([prepared] * count)
    dtype = next(model.parameters()).dtype
    inputs = {
        name: value.to(device(), dtype) if value.is_floating_point() else value.to(device())
        for name, value in inputs.items()
    }

    @torch.inference_mode()
    def write(tokens: int) -> None:
        model.generate(**inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)

    rounds = 1 if toy else ROUNDS
    first = measure_seconds(lambda: write(1), rounds)
    whole = measure_seconds(lambda: write(ANSWER), rounds)
    return {
        "tokens": len(ids_S),
        "to first token, s": first,
        "per further token, s": (whole - first) / (ANSWER - 1),
    }
