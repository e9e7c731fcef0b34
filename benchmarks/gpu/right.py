"""Checks correctness: half precision on the GPU against float32 on the CPU, and resuming on the
GPU.

Every family of experts with the same random weights on both; a training step of each backbone with
the same weights and batch; an export reloaded by stock transformers in bfloat16; an interrupted and
resumed training against an uninterrupted one. All sizes are toys, because only arithmetic is
compared.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.gpu.backbones import build
from benchmarks.gpu.experts import Expert, experts, save_checkpoint
from benchmarks.gpu.record import Record, device, half
from benchmarks.gpu.teachers import sounds
from benchmarks.student_setup import build_batch, build_streams
from student.batch import Batch
from student.model.student import Student
from student.plan.checkpoints import FAMILIES
from student.train import count_targets, step_losses
from teachers import registry

STEPS = 4


def run(record: Record, *, toy: bool) -> None:
    """Runs the comparisons; `toy` has no effect."""
    del toy
    if not torch.cuda.is_available():
        # oneDNN's bfloat16 convolutions of few channels are wrong on some CPUs (torch 2.13, AMX).
        torch.backends.mkldnn.enabled = False  # pyright: ignore[reportAttributeAccessIssue]
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as base:
        for name, expert in experts(toy=True).items():
            record.measure({"what": f"expert, {name}"},
                           lambda: _expert(expert, Path(base) / name))  # fmt: skip # noqa: B023
    for family in FAMILIES:
        record.measure({"what": f"training step, {family}"}, lambda: _step(family))  # noqa: B023
        record.measure({"what": f"resume, {family}"}, lambda: _resume(family))  # noqa: B023
        record.measure({"what": f"export, {family}"}, lambda: _export(family))  # noqa: B023
    record.finish("half precision here against float32 on the CPU; relative differences")


def _expert(expert: Expert, folder: Path) -> dict[str, Any]:
    waves = sounds(3, 16_000, 3.0)
    streams: dict[str, dict[str, list[np.ndarray]]] = {}
    for where, precision in (("cpu", None), (device(), half())):
        settings = save_checkpoint(expert, folder, half=precision)
        teacher = registry.make("t", expert.family, settings)
        teacher.load(device=where, num_threads=2)
        for targets in teacher.extract(waves):
            for name, frames_TD in targets.frames.items():
                streams.setdefault(name, {}).setdefault(str(precision), []).append(frames_TD)
    worst = 0.0
    for values in streams.values():
        exact, rounded = (np.concatenate(each) for each in values.values())
        scale = float(np.abs(exact).max()) or 1.0
        worst = max(worst, float(np.abs(exact - rounded).max()) / scale)
    return {"difference": worst, "right": bool(worst < 0.05)}


def _losses(student: Student, batch: Batch, recipe: Any, *, where: str) -> torch.Tensor:
    streams = build_streams(recipe)
    counts = count_targets(batch, streams=streams)
    with torch.autocast(where, torch.bfloat16, enabled=where == "cuda"):
        return step_losses(student, batch, counts, recipe=recipe, streams=streams,
                           stage="joint")[1]  # fmt: skip


def _step(family: str) -> dict[str, Any]:
    """Compares loss and gradient norm of one step on the device and in float32 on the CPU."""
    student, prompter, recipe = build(family, "coat", toy=True)
    batch = build_batch(student, prompter, recipe, 2)
    numbers = []
    for where in (device(), "cpu"):
        student.to(where).train()
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        student.zero_grad()
        loss = _losses(student, batch.to(where), recipe, where=where)
        loss.backward()
        norms = [each.grad.float().norm() for each in student.parameters() if each.grad is not None]
        numbers.append((float(loss.detach()), float(torch.stack(norms).norm())))
    (loss, norm), (exact_loss, exact_norm) = numbers
    differences = [abs(loss / exact_loss - 1), abs(norm / exact_norm - 1)]
    return {"difference": max(differences), "right": max(differences) < 0.05}


def _resume(family: str) -> dict[str, Any]:
    """Compares weights after uninterrupted steps with those of a run that was saved and resumed."""

    def trained(stop_at: int | None) -> dict[str, torch.Tensor]:
        student, prompter, recipe = build(family, "coat", toy=True)
        batch = build_batch(student, prompter, recipe, 2).to(device())
        student.eval()  # without dropout
        learning = [each for each in student.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=1e-3)
        for step in range(STEPS):
            if step == stop_at:
                kept = {name: value.clone() for name, value in student.trained_state().items()}
                state = optimizer.state_dict()
                student, _, recipe = build(family, "coat", toy=True)
                student.eval().load_state_dict(kept, strict=False)
                learning = [each for each in student.parameters() if each.requires_grad]
                optimizer = torch.optim.AdamW(learning, lr=1e-3)
                optimizer.load_state_dict(state)
            _losses(student, batch, recipe, where=device()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return {name: value.float().cpu() for name, value in student.trained_state().items()}

    whole, resumed = trained(None), trained(STEPS // 2)
    worst = max(float((whole[name] - resumed[name]).abs().max()) for name in whole)
    return {"difference": worst, "right": worst < 1e-3}


def _export(family: str) -> dict[str, Any]:
    """Computes the largest KL divergence of a reloaded export from its merged bfloat16 model."""
    student, prompter, recipe = build(family, "coat", toy=True)
    batch = build_batch(student, prompter, recipe, 2).to(device())
    merged: Any = student.model.merge_and_unload().to(torch.bfloat16).eval()  # pyright: ignore
    inputs = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in batch.inputs.items()
    }
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        merged.save_pretrained(folder)
        again = type(merged).from_pretrained(folder, dtype=torch.bfloat16).to(device()).eval()
        first, second = merged(**inputs).logits.float(), again(**inputs).logits.float()
    # Random weights give flat logits, whose largest one may change by rounding.
    divergence = torch.nn.functional.kl_div(
        second.log_softmax(-1), first.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    return {"difference": float(divergence.max()), "right": bool(divergence.max() < 1e-3)}
