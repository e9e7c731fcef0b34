"""Shows the progress of a training: a bar on a terminal, otherwise lines."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from manifests.console import console, messages
from manifests.progress import SPEED_SECONDS, LogPace, describe_time


class TrainingProgress(TrainerCallback):
    """Shows step, loss, examples per second, time left and memory of one stage.

    Args:
        stage: Its name.
        examples_per_step: Examples of all processes.
    """

    def __init__(self, stage: str, examples_per_step: int) -> None:
        self._stage = stage
        self._examples_per_step = examples_per_step
        self._bar: Progress | None = None
        self._task: Any = None
        self._loss: float | None = None  # Not known before the first log.
        self._first_step = 0
        self._begun, self._pace = 0.0, LogPace()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prints the step from which a stage is resumed, and starts the bar."""
        self._first_step = state.global_step
        self._begun, self._pace = time.monotonic(), LogPace()
        if not state.is_world_process_zero:
            return
        if state.global_step:
            console.print(
                f"{self._stage}: resuming from step {state.global_step} of {state.max_steps}"
            )
        if messages.is_terminal and not args.disable_tqdm:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=12),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(compact=True),
                console=messages,
                transient=True,
                speed_estimate_period=SPEED_SECONDS,
            )
            self._task = self._bar.add_task(
                self._stage, total=state.max_steps, completed=state.global_step, text=""
            )
            self._bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Stores the latest loss."""
        if logs and "loss" in logs:
            self._loss = float(logs["loss"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Updates the bar, or prints a line if one is due."""
        if self._bar is not None:
            self._bar.update(
                self._task, completed=state.global_step, text=self._progress_text(state)
            )
        elif state.is_world_process_zero and not args.disable_tqdm and self._pace.is_due():
            seconds = max(time.monotonic() - self._begun, 1e-9)
            rate = (state.global_step - self._first_step) / seconds
            left = (state.max_steps - state.global_step) / max(rate, 1e-9)
            messages.print(
                f"{self._stage}: step {state.global_step} of {state.max_steps}, "
                f"{self._progress_text(state)}, about {describe_time(left)} left"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the bar away."""
        self.stop()

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()  # also where training has failed

    def stop(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _progress_text(self, state: Any) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-9)
        examples = (state.global_step - self._first_step) * self._examples_per_step
        loss = "" if self._loss is None else f"loss {self._loss:.3f}, "
        return f"{loss}{examples / seconds:.1f} examples/s, {memory_used() / 1e9:.1f} GB"


def memory_used() -> int:
    """Peak memory in bytes: on the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
