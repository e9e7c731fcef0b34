"""Validation: answer loss, and for every stream its loss and metric on held-out clips.

Runs outside of the random-number stream of training, so that how often one validates changes
nothing else.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from manifests.progress import watched
from manifests.streams.kinds import KINDS
from student.batch import Batch, stream_targets
from student.distill.kinds import stream_counts, stream_sums
from student.distill.losses import answer_sum
from student.distill.stream_score import StreamScore
from student.distill.streams import RECONSTRUCTION, Stream
from student.model.student import Student
from student.runs.folder import Numbers

# Legend: B examples, N frames (K * R), M frames of all clips, D columns, P parts of a loss.


class Validator:
    """Measures a student on the same held-out batches every time."""

    def __init__(
        self,
        batches: Iterable[Batch],
        streams: Mapping[str, Stream],
        means: Mapping[str, np.ndarray],
        *,
        show_progress: bool = False,
    ) -> None:
        """
        Args:
            batches: Held-out batches, iterated anew for each measurement.
            streams: The streams to measure.
            means: Stream -> mean target_D of the training clips, for the baseline.
            show_progress: Show a bar, or lines in a log file.
        """
        self._batches = batches
        self._streams = streams
        self._means = means
        self._show_progress = show_progress

    @torch.no_grad()
    def __call__(self, student: Student, *, while_training: bool = False) -> Numbers:
        """The numbers of a student as it is; while it trains, the bar is that of the training."""
        was_training = student.training
        student.eval()
        with torch.random.fork_rng():
            numbers = self._measure(student, is_shown=self._show_progress and not while_training)
        student.train(was_training)
        return numbers

    def _measure(self, student: Student, *, is_shown: bool) -> Numbers:
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(1))
        counts: dict[str, Tensor] = defaultdict(lambda: torch.zeros(1))
        outputs: dict[str, list[np.ndarray]] = defaultdict(list)
        targets: dict[str, list[np.ndarray]] = defaultdict(list)
        for batch in watched(self._batches, "validation", is_shown=is_shown):
            batch = batch.to(student.tower_mean_H.device)
            result = student(batch.inputs, batch.labels_BS, batch.audio_weights_BNS)
            sums["answer"] = sums["answer"] + answer_sum(result.logits_AV, result.labels_A).cpu()
            counts["answer"] = counts["answer"] + len(result.labels_A)
            for name, (target_BND, covered_B) in stream_targets(batch, result).items():
                kind = self._streams[name].kind
                output_BND = result.frames[name].float()
                sums[name] = sums[name] + stream_sums(kind, output_BND, target_BND, covered_B).cpu()
                counts[name] = counts[name] + stream_counts(kind, target_BND, covered_B).cpu()
                outputs[name].append(output_BND[covered_B].flatten(0, 1).cpu().numpy())
                targets[name].append(target_BND[covered_B].flatten(0, 1).cpu().numpy())
        numbers = {"answer_loss": float(sums["answer"] / counts["answer"].clamp(min=1))}
        for name in outputs:
            output_MD, target_MD = np.concatenate(outputs[name]), np.concatenate(targets[name])
            loss = (sums[name] / counts[name].clamp(min=1)).sum()
            score = StreamScore.from_frames(
                self._streams[name], output_MD, target_MD,
                mean_D=self._means[name], loss=float(loss),
            )  # fmt: skip
            numbers |= score.to_numbers(name)
        return numbers


@torch.no_grad()
def calibrate(
    student: Student,
    batches: Iterable[Batch],
    streams: Mapping[str, Stream],
    *,
    show_progress: bool = False,
) -> dict[str, np.ndarray]:
    """Measures what training takes as given: the mean target of each stream over some training
    clips (returned), and mean and deviation of the backbone's audio features (kept in the student).

    The audio tower is frozen, so its statistics are measured once instead of as they run: training
    then does not depend on how a batch is cut into parts.
    """
    totals: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    tower: list[Tensor] = []
    was_training = student.training
    student.eval()
    for batch in watched(batches, "first look at the data", is_shown=show_progress):
        if RECONSTRUCTION in streams:
            moved = batch.to(student.tower_mean_H.device)
            result = student(
                moved.inputs, moved.labels_BS, moved.audio_weights_BNS, with_answer=False
            )
            tower.append(result.tower_BNH.flatten(0, 1))
        for name, target_BND in batch.targets.items():
            target_MD = target_BND[batch.covered[name]].flatten(0, 1).numpy()
            validity_MD = KINDS[streams[name].kind].validity(target_MD)
            weight_MD = validity_MD.astype(target_MD.dtype)
            totals[name] = totals.get(name, 0) + (target_MD * weight_MD).sum(0)
            counts[name] = counts.get(name, 0) + weight_MD.sum(0)
    student.train(was_training)
    if tower:
        tower_MH = torch.cat(tower)
        student.tower_mean_H.copy_(tower_MH.mean(0))
        student.tower_std_H.copy_(tower_MH.std(0).clamp(min=1e-6))
        totals[RECONSTRUCTION] = np.zeros(tower_MH.shape[1], np.float32)
        counts[RECONSTRUCTION] = np.ones(1)
    return {name: totals[name] / np.maximum(counts[name], 1) for name in totals}


def build_report_table(report: Mapping[str, Numbers], streams: Mapping[str, Stream]) -> Table:
    """Validation before and after each stage, beside the mean predictor."""
    table = Table(title="held-out clips: loss, and metric where higher is better")
    table.add_column("stream", no_wrap=True)
    for heading in ("metric", "stream's mean", *report):
        table.add_column(heading, justify="right")
    answer = [f"{numbers['answer_loss']:.3f}" for numbers in report.values()]
    table.add_row("answer", "loss", "", *answer)
    for name, stream in streams.items():
        scores = [StreamScore.from_numbers(name, numbers) for numbers in report.values()]
        measured = [score for score in scores if score is not None]
        cells = [f"{score.loss:.3f}  {_shown(score.metric)}" for score in measured]
        baseline = _shown(measured[0].mean_predictor) if measured else "-"
        table.add_row(name, f"loss, {KINDS[stream.kind].metric_name}", baseline, *cells)
    return table


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
