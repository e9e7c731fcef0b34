"""Trains a student from a teacher cache, from top to bottom: data, model, losses, steps.

No expert runs here: their outputs are read from the cache. There are two stages: `align` trains the
block to encode the experts' outputs, with the backbone frozen; `joint` adds LoRA and the answers.
The same command resumes a killed run and ends with the same weights.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import set_seed

from manifests.console import console
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from manifests.wording import number_of
from student.batch import IGNORE, Batch, Grid, collate, stream_targets
from student.config import STAGE_SEEDS, Blinded, Recipe, StageConfig
from student.data.block_shuffle import shuffles_blocks
from student.data.build_table import open_examples
from student.data.dataset import ExampleDataset
from student.data.example_table import ExampleTable
from student.data.held_out import check_sides
from student.data.prompts import Prompter
from student.distill.kinds import stream_counts, stream_sums
from student.distill.losses import answer_sum
from student.distill.streams import RECONSTRUCTION, Stream, copy_ahead, open_streams
from student.model.backbones.registry import backbone_window
from student.model.student import Student, build_student, load_backbone
from student.run_options import TrainOptions, no_targets
from student.runs.changed_sources import check_sources
from student.runs.folder import Numbers, Run
from student.runs.identity import build_identity, fit_stage
from student.runs.sources import build_sources
from student.training.determinism import deterministic_kernels
from student.training.failures import explained_disk, explained_memory
from student.training.processes import (
    loads_weights,
    materialise_trained,
    name_wrapped_layer,
    start_processes,
    uses_fsdp,
)
from student.training.reading import SkippingDataset
from student.training.sharing import SharedBatches
from student.training.trainer import (
    Counts,
    StudentTrainer,
    training_arguments,
)
from student.training.validation import Validator, build_report_table, calibrate

# Legend: B examples, S tokens, N frames (K * R), D columns, P parts of a loss.

CALIBRATION_EXAMPLES = 256
"""Number of training examples on which means and deviations are measured."""


def train(options: TrainOptions) -> dict[str, Numbers]:
    """Trains a student through the recipe's stages, or resumes an unfinished run.

    Returns:
        `before` and each stage -> its validation numbers.
    """
    process = start_processes(options)
    console.quiet = not process.is_main_process
    run = Run(options.out)
    lock = run.lock() if process.is_main_process else contextlib.nullcontext()
    kernels = deterministic_kernels(
        enabled=bool(options.trainer.get("full_determinism")), seed=options.seed
    )
    with explained_disk(run.folder), lock, kernels:
        return _train(options, run, process)


def _train(options: TrainOptions, run: Run, process: PartialState) -> dict[str, Numbers]:
    recipe = options.recipe()
    with process.main_process_first():
        run.check_same(recipe)

    # Data: the clips, the questions about them, and the targets of the teachers.
    caches = [options.cache] if isinstance(options.cache, str) else options.cache
    pinned, versions = run.pinned_streams(recipe)
    if not caches and not recipe.distils:
        pinned = {}  # The streams of the recipe matter only to arms with heads.
    streams = open_streams(caches, pinned, local_copies=options.local_copies, versions=versions)
    if recipe.distils and not streams and not run.exists:
        raise no_targets(recipe.arm)
    copy_ahead(streams)
    corpus = Corpus(options.corpus)
    with process.main_process_first():
        if note := check_sources(run, recipe, corpus):
            console.print(note, markup=False)
        if run.exists and run.has_examples():
            table = ExampleTable(run.examples_folder, recipe.data.tasks)
        else:
            table = open_examples(
                run.examples_folder, corpus, streams, recipe.data,
                window_s=backbone_window(recipe.model), begun=run.exists,
                had_table=run.identity_file.is_file(),
            )  # fmt: skip
    learning, held_out = _both_sides(table)
    console.print(
        f"{number_of(len(table.clips), 'clip')}, {number_of(len(learning), 'example')} to learn "
        f"from, {len(held_out):,} held out"
    )
    learnt_by_task, held_out_by_task = learning.task_counts(), held_out.task_counts()
    for name, count in learnt_by_task.items():
        held = held_out_by_task.get(name, 0)
        line = f"{name}: {number_of(count, 'example')} to learn from, {held} held out"
        console.print(line, markup=False)
    check_sides(learnt_by_task, held_out_by_task, recipe.data.validation)
    sources = build_sources(options.corpus, corpus.name, caches, table.summary, streams,
                            examples=len(learning), held_out=len(held_out))  # fmt: skip

    # Model: the backbone with its block, adapters and heads.
    identity = build_identity(
        recipe,
        corpus.digest,
        table.summary.made_from,
        [teacher.key for teacher in sources.teachers],
        num_processes=process.num_processes,
    )
    with process.main_process_first():
        run.create(recipe, sources, identity, learning=learning, held_out=held_out)
    identity.check_same(run.identity)
    with_weights = loads_weights(recipe, run.base, process)
    backbone, model, processor = load_backbone(recipe.model, run.base, with_weights=with_weights)
    name_wrapped_layer(model)
    student = build_student(recipe, backbone, model, processor, streams)
    can_quantize = (
        recipe.model.path is not None
        and recipe.model.quantize is None
        and torch.cuda.is_available()
        and not backbone.expert_parameters
    )
    distilled = streams if recipe.distils else {}
    grid = Grid.from_recipe(recipe, distilled)
    as_dataset = functools.partial(
        ExampleDataset,
        clips=table.clips,
        prompter=Prompter(backbone, processor, seconds_per_block=recipe.block.span_seconds),
        grid=grid,
        audio_token_id=backbone.audio_token_id(model),
        keep=recipe.data.keep_in_memory,
    )
    calibrated = SkippingDataset(as_dataset(learning.drawn(CALIBRATION_EXAMPLES)))
    validated = SkippingDataset(as_dataset(held_out.drawn(recipe.data.validation_limit)))
    lengths = learning.lengths().tolist() if recipe.data.group_by_length else None
    shards = learning.shards() if shuffles_blocks(recipe.data, len(table.clips)) else None
    learning = as_dataset(learning)
    pad_id = processor.tokenizer.pad_token_id
    as_batch = functools.partial(collate, grid=grid, pad_id=pad_id, packed=recipe.data.packing)

    # Validation before training, with the means over training clips as the baseline.
    stages, last = recipe.stages(), Path()
    batch_size = max(stage.batch_size for stage in stages.values())
    as_shared = functools.partial(
        SharedBatches, batch_size=batch_size, data=recipe.data, collate=as_batch, process=process
    )
    is_main = process.is_main_process
    means: dict[str, np.ndarray] = {}
    validate = Validator(as_shared(validated), distilled, means, show_progress=is_main)
    report = run.report()

    def measure(student: Student, *, resumed: bool) -> None:
        """Calibrates and validates the untrained student, unless this is already done."""
        if means:
            return
        learns = resumed or any(name in report for name in stages)
        shared = as_shared(calibrated)
        means.update(
            calibrate(student, shared, distilled, keeps_statistics=learns, show_progress=is_main)
        )
        if process.is_main_process:
            run.write_target_means(means)
        if "before" not in report:
            report["before"] = validate(student)
            if process.is_main_process:
                run.write_report(report)

    if not uses_fsdp(recipe):
        student.to(process.device)
        measure(student, resumed=False)

    # Stages: each runs the trainer, starting from the weights of the previous one.
    for name, stage in stages.items():
        if student.is_sharded:
            # FSDP shards a model once: the next stage starts with an unsharded one.
            loaded = load_backbone(recipe.model, run.base, with_weights=with_weights)
            student = build_student(recipe, *loaded, streams)
            student.load(last)
        last = run.state(name)
        student.train_only(stage.train)
        materialise_trained(student)
        if name not in report:
            stage = _fitted(name, stage, run, process)
            seed = recipe.seed + STAGE_SEEDS[name]
            readable = SkippingDataset(learning)
            if stage.checkpointing:
                student.base.gradient_checkpointing_enable({"use_reentrant": False})
            trainer = StudentTrainer(
                student,
                stage,
                training_arguments(recipe, stage, run.stage(name), seed=seed),
                count=functools.partial(count_targets, streams=distilled),
                losses=functools.partial(step_losses, recipe=recipe, streams=distilled, stage=name),
                validate=functools.partial(validate, while_training=True),
                examples=readable,
                held_out=validated,
                collate=as_batch,
                lengths=lengths,
                shards=shards,
                begin=functools.partial(measure, student),
            )
            set_seed(seed)
            console.print(
                f"{name}: {_trainable(student)} parameters are trained ({recipe.learns(stage)})"
            )
            with process.main_process_first():
                run.remove_unfinished(name)
                checkpoints = run.checkpoints(name)
            with explained_memory(name, stage, can_quantize=can_quantize), trainer.progress:
                trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
                report[name] = validate(student)
                trainer.save_model()
            for what, examples in (("examples", readable), ("held-out examples", validated)):
                if examples.num_skipped:
                    console.print(f"{name}: {examples.num_skipped} {what} were skipped")
            if process.is_main_process:
                run.write_report(report)
            process.wait_for_everyone()
        else:
            console.print(f"{name}: finished earlier, its weights are loaded")
            student.load(last)
    console.print(build_report_table(report, distilled))
    return report


def count_targets(batch: Batch, *, streams: dict[str, Stream]) -> Counts:
    """Counts by which a batch's losses are divided, summed over an accumulated batch."""
    counts = {"answer": (batch.labels_BS[:, 1:] != IGNORE).sum()[None]}
    for name, target_BND in batch.targets.items():
        counts[name] = stream_counts(streams[name].kind, target_BND, batch.covered[name])
    if RECONSTRUCTION in streams:
        weights_BNS = batch.audio_weights_BNS
        assert weights_BNS is not None
        counts[RECONSTRUCTION] = weights_BNS.any(-1).sum()[None]
    return counts


def step_losses(
    model: nn.Module,
    batch: Batch,
    counts: Counts,
    done: float = 1.0,
    *,
    recipe: Recipe,
    streams: dict[str, Stream],
    stage: str,
) -> tuple[dict[str, Tensor], Tensor]:
    """A batch's share of the loss: answer cross-entropy + lambda * sum_s w_s * L_s.

    `align` uses only the distillation loss; the arm pause, which has none, aligns its block with
    the answers.

    Args:
        model: The student, as the trainer has wrapped it.
        batch: See `student.batch`.
        counts: Over the whole accumulated batch.
        done: Completed share of the stage's steps, on which bottleneck and lambda depend.

    Returns:
        Each loss by name, and the total to minimise.
    """
    with_answer = stage == "joint" or not streams
    result = model(
        batch.inputs,
        batch.labels_BS,
        batch.audio_weights_BNS,
        with_answer=with_answer,
        bottleneck=bottleneck_now(recipe, stage, done),
    )
    parts: dict[str, Tensor] = {}
    total = torch.zeros((), device=batch.labels_BS.device)
    if with_answer:
        answer = answer_sum(result.logits_AV, result.labels_A)
        parts["answer"] = answer / counts["answer"][0].clamp(min=1)
        total = total + parts["answer"]
    scale = distill_weight_now(recipe, done) if with_answer else 1.0
    for name, (target_BND, covered_BN) in stream_targets(batch, result).items():
        stream = streams[name]
        for frames, suffix in ((result.frames, ""), (result.audio_frames, "@audio")):
            if name in frames:
                sums_P = stream_sums(stream.kind, frames[name], target_BND, covered_BN)
                part = (sums_P / counts[name].clamp(min=1)).sum()
                parts[name + suffix] = part
                total = total + scale * stream.config.weight * part
    return {name: value.detach() for name, value in parts.items()}, total


def bottleneck_now(recipe: Recipe, stage: str, done: float) -> Blinded | None:
    """The text that cannot attend to audio at this share of the stage's steps, if any."""
    joint = recipe.joint
    if stage != "joint" or joint is None or done >= joint.bottleneck:
        return None
    return joint.bottleneck_blinds


def distill_weight_now(recipe: Recipe, done: float) -> float:
    """lambda at this share of the joint stage's steps."""
    return recipe.distill_weight if done < recipe.distill_until else 0.0


def _both_sides(table: ExampleTable) -> tuple[ExampleTable, ExampleTable]:
    learning, held_out = table.learning(), table.held_out()
    if not learning or not held_out:
        raise UserError(
            f"{number_of(len(table), 'example')} gave {len(learning)} for training and "
            f"{len(held_out)} held out; both are needed: see data.tasks, data.validation and the "
            "corpus' text and labels"
        )
    return learning, held_out


def _fitted(name: str, stage: StageConfig, run: Run, process: PartialState) -> StageConfig:
    """Adjusts the stage to the run's number of examples per step, for this number of processes."""
    examples_per_step = run.identity.examples_per_step.get(name)
    if examples_per_step is None:  # started with an older version
        return stage
    fitted = fit_stage(name, stage, examples_per_step, num_processes=process.num_processes)
    if fitted != stage:
        console.print(
            f"{name}: batches of {fitted.batch_size} and accumulation {fitted.accumulation} on "
            f"{process.num_processes} processes keep {examples_per_step} examples per step"
        )
    return fitted


def _trainable(student: Student) -> str:
    return f"{sum(p.numel() for p in student.parameters() if p.requires_grad):,}"
