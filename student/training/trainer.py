"""A subclass of transformers' Trainer with its own loss, checkpoints and validation.

Three things differ from the base class. Losses are normalised by counts over the whole accumulated
batch and all processes, per stream and for the answer, so that gradient accumulation is exact.
Checkpoints contain the trained state, not the frozen backbone. Rows, heads and backbone have
separate learning rates.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import ProgressCallback, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from manifests.errors import UserError
from manifests.file_list import write_file_list
from student.batch import Batch, PreparedExample
from student.config import Recipe, StageConfig
from student.data.block_shuffle import BlockShuffle
from student.data.length_grouping import ByLength
from student.library_internals import TrainerHooks
from student.model.student import Student
from student.runs.folder import CHECKPOINT, STATE_FILE, Numbers, Run
from student.training.failures import check_finite
from student.training.progress import TrainingProgress
from student.training.sharing import share_buffers

SECONDS_BETWEEN_CHECKPOINTS = 300.0

Counts = dict[str, Tensor]
"""Stream (or `answer`) -> counts_P over the whole accumulated batch."""


class StudentTrainer(TrainerHooks):
    """Trains a `Student` for one stage.

    Args:
        student: The student to train. stage: The stage of the recipe. count: Batch -> the counts by
            which its losses are divided. losses: (model, batch, counts, completed share of the
            stage's steps) -> each loss by name, and the total to minimise.
        validate: Student -> numbers. lengths: Lengths of the examples. If given, batches have
            examples of similar length. shards: Shards of the examples. If given, they are shuffled
            by blocks (`student.data.block_shuffle`).
        begin: Called with `resumed` before the first step, when the model is on its devices and,
            under FSDP, sharded.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        student: Student,
        stage: StageConfig,
        arguments: TrainingArguments,
        *,
        count: Callable[[Batch], Counts],
        losses: Callable[[torch.nn.Module, Batch, Counts, float], tuple[dict[str, Tensor], Tensor]],
        validate: Callable[[Student], Numbers],
        examples: Dataset,
        held_out: Dataset,
        collate: Callable[[list[PreparedExample]], Batch],
        lengths: Sequence[int] | None = None,
        shards: np.ndarray | None = None,
        begin: Callable[..., None] | None = None,
    ) -> None:
        super().__init__(
            model=student,
            args=arguments,
            train_dataset=examples,
            eval_dataset=held_out,
            data_collator=collate,  # pyright: ignore[reportArgumentType] (ours gives a Batch)
        )
        self.student = student
        self._stage = stage
        self._count = count
        self._losses = losses
        self._validate = validate
        self._lengths = lengths
        self._shards = shards
        self._name = Path(str(arguments.output_dir)).name
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._parts_since = 0
        self._peak_rates: dict[str, float] = {}
        """Part of the student -> its peak learning rate, in the order of the optimizer's groups."""
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        together = arguments.gradient_accumulation_steps * arguments.world_size
        self.progress = TrainingProgress(self._name, stage.batch_size * together)
        self.add_callback(self.progress)
        self.add_callback(_JsonLines(Path(str(arguments.output_dir))))
        self.add_callback(_Begin(student, begin))
        self.add_callback(_SaveInTime())
        self.add_callback(_CloseCheckpoints(PartialState()))

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Any]:
        """Returns the next accumulated batch, with its counts instead of the number of items."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        counts: Counts = {}
        for batch in batches:
            for name, count_P in self._count(batch).items():
                counts[name] = counts.get(name, 0) + count_P.to(device, torch.float32)
        if not counts:
            return batches, {}
        lengths = [len(count_P) for count_P in counts.values()]
        whole: Any = self.accelerator.reduce(torch.cat(list(counts.values())))
        return batches, dict(zip(counts, whole.split(lengths), strict=True))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This batch's share of the loss of the whole accumulated batch."""
        done = self.state.global_step / max(self.state.max_steps, 1)
        parts, loss = self._losses(model, inputs, num_items_in_batch, done)
        self._add_parts(parts, loss.detach())
        loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, parts) if return_outputs else loss

    def _add_parts(self, parts: dict[str, Tensor], loss: Tensor) -> None:
        """Adds to the sums of the next log line, without waiting for the device."""
        self._names = list(parts)
        sums = torch.stack([*parts.values(), loss]).double()
        self._sums = sums if self._sums is None else self._sums + sums

    def _take_parts(self) -> tuple[Numbers, float]:
        """(each loss by name, the total), summed over all processes since the last call."""
        assert self._sums is not None
        reduced: Any = self.accelerator.reduce(self._sums)
        *sums, total = reduced.tolist()
        self._sums = None
        return dict(zip(self._names, sums, strict=True)), total

    def floating_point_ops(self, inputs: Any) -> int:
        """Returns 0, because the base class expects token ids in a mapping."""
        return 0

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """One group of parameters for each learning rate."""
        if self.optimizer is None:
            rates = {
                "rows": self._stage.embeddings_lr,
                "backbone": self._stage.lr,
                "heads": self._stage.heads_lr,
            }
            groups = {part: [] for part in rates}
            for name, parameter in self.student.named_parameters():
                if parameter.requires_grad:
                    groups[self.student.part(name)].append(parameter)
            self._peak_rates = {part: rates[part] for part in rates if groups[part]}
            optimizer, settings = self.get_optimizer_cls_and_kwargs(self.args)
            settings.pop("lr")
            self.optimizer = optimizer(
                [
                    {"params": parameters, "lr": rates[part],
                     "weight_decay": 0.0 if part == "rows" else self._stage.weight_decay}
                    for part, parameters in groups.items()
                    if parameters
                ],
                **settings,
            )  # fmt: skip
        return self.optimizer

    def training_sampler(self) -> Sampler | None:
        """Shuffles by blocks of shards, by length, or as in the base class."""
        if self._shards is not None:
            return BlockShuffle(
                self._shards,
                batch_size=self.args.train_batch_size,
                lanes=self.args.world_size * max(1, self.args.dataloader_num_workers),
                seed=self.args.data_seed or 0,
                lengths=self._lengths,
            )
        if self._lengths is None:
            return None
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return ByLength(
            self._lengths, together * self.args.world_size, seed=self.args.data_seed or 0
        )

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Numbers:
        """Validates, and logs the numbers."""
        numbers = self._validate(self.student)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in numbers.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each part's loss and learning rate to the trainer's own log.

        The trainer logs the rate of the first group of parameters. `learning_rate` is the
        backbone's where it is trained, and the schedule is the same for all groups.
        """
        peaks = self._peak_rates
        if "learning_rate" in logs and peaks and (first := next(iter(peaks.values()))):
            done = logs["learning_rate"] / first
            logs["learning_rate"] = done * peaks.get("backbone", first)
            for part, name in (("rows", "embeddings"), ("heads", "heads")):
                if part in peaks:
                    logs[f"learning_rate/{name}"] = done * peaks[part]
        steps = self.state.global_step - self._parts_since
        if "loss" in logs and steps and self._sums is not None:
            parts, total = self._take_parts()
            check_finite(total, stage=self._name, step=self.state.global_step)
            logs |= {f"loss/{name}": value / steps for name, value in parts.items()}
            self._parts_since = self.state.global_step
        super().log(logs, start_time)

    def save_trained(self, folder: Path, state_dict: dict[str, Tensor] | None) -> None:
        """Writes the student's state file."""
        trained = self.student.trained_state(state_dict)
        if not all(value.isfinite().all() for value in trained.values()):
            check_finite(float("nan"), stage=self._name, step=self.state.global_step)
        folder.mkdir(parents=True, exist_ok=True)
        # This file marks a finished stage, so it is written atomically.
        part = folder / f"{STATE_FILE}.part"
        save_file(trained, part)
        part.rename(folder / STATE_FILE)

    def load_trained(self, checkpoint: Path) -> None:
        """Reads the student's state file of a checkpoint."""
        self.student.load(checkpoint / STATE_FILE)
        self._parts_since = int(checkpoint.name.rpartition("-")[2])


def training_arguments(
    recipe: Recipe, stage: StageConfig, folder: Path, *, seed: int
) -> TrainingArguments:
    """Arguments of transformers' Trainer; `recipe.trainer` takes precedence."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": stage.epochs,
        "max_steps": stage.max_steps,
        "per_device_train_batch_size": stage.batch_size,
        "gradient_accumulation_steps": stage.accumulation,
        "learning_rate": stage.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": stage.warmup,
        "logging_steps": stage.log_steps,
        "save_strategy": "steps",
        "save_steps": stage.save_steps,
        "save_total_limit": 2,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if stage.eval_steps else "no",
        "eval_steps": stage.eval_steps or None,
        "dataloader_num_workers": recipe.data.workers,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "report_to": ["tensorboard"],
        # The default follows the verbosity of transformers, which `student.quiet` lowers.
        "disable_tqdm": False,
        "seed": seed,
        "data_seed": seed,
    }
    try:
        return _OneGpuPerProcess(**(settings | recipe.trainer))
    except (ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"recipe: trainer: {reason}") from None


class _OneGpuPerProcess(TrainingArguments):
    """Training arguments with one GPU per process.

    The base class would use all visible GPUs in one process (DataParallel), which multiplies the
    batch and does not support packed rows.
    """

    @property
    def n_gpu(self) -> int:
        """GPUs of this process."""
        return min(1, super().n_gpu)


class _Begin(TrainerCallback):
    """Measures a student before the first step, without affecting the random numbers of
    training."""

    def __init__(self, student: Student, begin: Callable[..., None] | None) -> None:
        self._student = student
        self._begin = begin

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._student.is_sharded:
            share_buffers(self._student)
        if self._begin is not None:
            with torch.random.fork_rng():
                self._begin(resumed=bool(state.global_step))


class _SaveInTime(TrainerCallback):
    """Requests a checkpoint every few minutes, also between those of `save_steps`.

    Only with one process: the clocks of several would disagree, and all must save together.
    """

    def __init__(self) -> None:
        self._saved_at = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_at = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seconds = time.monotonic() - self._saved_at
        if args.world_size == 1 and seconds > SECONDS_BETWEEN_CHECKPOINTS:
            control.should_save = True


class _CloseCheckpoints(TrainerCallback):
    """Closes each checkpoint after all processes have written their files."""

    def __init__(self, process: PartialState) -> None:
        self._process = process

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._process.wait_for_everyone()
        checkpoint = Path(args.output_dir) / f"{CHECKPOINT}{state.global_step}"
        if state.is_world_process_zero and checkpoint.is_dir():
            write_file_list(checkpoint)


class _JsonLines(TrainerCallback):
    """Writes every log as a line of metrics.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._run = Run(folder.parent)
        self._stage = folder.name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._run.drop_log(self._stage, after=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            line = {"stage": self._stage, "step": state.global_step, **logs}
            self._run.append_log(line)
