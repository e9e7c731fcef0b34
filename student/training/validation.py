"""Validation: answer loss, and loss and metric of every stream on held-out clips.

Validation does not affect the random numbers of training, so its frequency does not change the
result.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from manifests.progress import watched
from manifests.streams.kinds import KINDS
from student.batch import stream_targets
from student.distill.kinds import stream_counts, stream_sums
from student.distill.losses import answer_sum
from student.distill.stream_score import StreamScore
from student.distill.streams import RECONSTRUCTION, Stream
from student.model.student import Student
from student.runs.folder import Numbers
from student.training.sharing import SharedBatches, rows_of_all_processes, sum_over_processes

# Legend: B examples, N frames (K * R), M frames of all clips, D columns, P parts of a loss.


class Validator:
    """Measures a student on the same held-out batches every time."""

    def __init__(
        self,
        batches: SharedBatches,
        streams: Mapping[str, Stream],
        means: Mapping[str, np.ndarray],
        *,
        show_progress: bool = False,
    ) -> None:
        """
        Args:
            batches: Held-out batches of this process, iterated for each measurement. streams: The
                streams to measure. means: Stream -> mean target_D of the training clips, for the
                baseline; may be filled later.
            show_progress: Show a bar, or lines in a log file.
        """
        self._batches = batches
        self._streams = streams
        self._means = means
        self._show_progress = show_progress

    @torch.no_grad()
    def __call__(self, student: Student, *, while_training: bool = False) -> Numbers:
        """Measures a student; during training, no separate progress bar is shown."""
        was_training = student.training
        student.eval()
        with torch.random.fork_rng():
            numbers = self._measure(student, is_shown=self._show_progress and not while_training)
        student.train(was_training)
        return numbers

    def _measure(self, student: Student, *, is_shown: bool) -> Numbers:
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(1))
        counts: dict[str, Tensor] = defaultdict(lambda: torch.zeros(1))
        outputs: dict[str, list[Tensor]] = defaultdict(list)
        targets: dict[str, list[Tensor]] = defaultdict(list)
        for batch, counted in watched(self._batches, "validation", is_shown=is_shown):
            batch = batch.to(student.tower_mean_H.device)
            result = student(batch.inputs, batch.labels_BS, batch.audio_weights_BNS)
            answer = answer_sum(result.logits_AV, result.labels_A).cpu()
            sums["answer"] = sums["answer"] + answer * counted
            counts["answer"] = counts["answer"] + len(result.labels_A) * counted
            for name, (target_BND, covered_BN) in stream_targets(batch, result).items():
                kind = self._streams[name].kind
                covered_BN = covered_BN & counted
                output_BND = result.frames[name].float()
                sums_P = stream_sums(kind, output_BND, target_BND, covered_BN)
                sums[name] = sums[name] + sums_P.cpu()
                counts[name] = counts[name] + stream_counts(kind, target_BND, covered_BN).cpu()
                outputs[name].append(output_BND[covered_BN].cpu())
                targets[name].append(target_BND[covered_BN].cpu())
        names = list(sums)
        whole = sum_over_processes([*sums.values(), *(counts[name] for name in names)])
        losses = {
            name: float((whole[place] / whole[len(names) + place].clamp(min=1)).sum())
            for place, name in enumerate(names)
        }
        numbers = {"answer_loss": losses.pop("answer")}
        for name, loss in losses.items():
            output_MD = rows_of_all_processes(torch.cat(outputs[name])).numpy()
            target_MD = rows_of_all_processes(torch.cat(targets[name])).numpy()
            score = StreamScore.from_frames(
                self._streams[name], output_MD, target_MD, mean_D=self._means[name], loss=loss
            )
            numbers |= score.to_numbers(name)
        return numbers


@torch.no_grad()
def calibrate(
    student: Student,
    batches: SharedBatches,
    streams: Mapping[str, Stream],
    *,
    keeps_statistics: bool = False,
    show_progress: bool = False,
) -> dict[str, np.ndarray]:
    """Measures constants of the training: the mean target of each stream over some training clips
    (returned), and mean and deviation of the backbone's audio features (stored in the student).

    The audio tower is frozen, so its statistics are measured once instead of as running averages,
    so that training does not depend on the size of batches. A trained student keeps its statistics.
    """
    totals: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    width = len(student.tower_mean_H)
    tower_3H = torch.zeros(3, width, dtype=torch.float64)  # count, sum, sum of squares
    was_training = student.training
    student.eval()
    for batch, counted in watched(batches, "first pass over the data", is_shown=show_progress):
        if RECONSTRUCTION in streams:
            moved = batch.to(student.tower_mean_H.device)
            result = student(
                moved.inputs, moved.labels_BS, moved.audio_weights_BNS, with_answer=False
            )
            tower_BNH, covered_BN = stream_targets(moved, result)[RECONSTRUCTION]
            tower_MH = tower_BNH[covered_BN].double().cpu() * counted
            count_H = torch.full((width,), counted * len(tower_MH))
            tower_3H += torch.stack([count_H, tower_MH.sum(0), (tower_MH**2).sum(0)])
        for name, target_BND in batch.targets.items():
            target_MD = target_BND[batch.covered[name]].numpy()
            validity_MD = KINDS[streams[name].kind].validity(target_MD)
            weight_MD = validity_MD.astype(target_MD.dtype) * counted
            totals[name] = totals.get(name, 0) + (target_MD * weight_MD).sum(0)
            counts[name] = counts.get(name, 0) + weight_MD.sum(0)
    student.train(was_training)
    names = list(totals)
    values = [*totals.values(), *(counts[name] for name in names)]
    whole = sum_over_processes([*map(torch.as_tensor, values), tower_3H])
    means = {
        name: (whole[place] / whole[len(names) + place].clamp(min=1)).float().numpy()
        for place, name in enumerate(names)
    }
    if RECONSTRUCTION in streams:
        means[RECONSTRUCTION] = np.zeros(width, np.float32)
    if RECONSTRUCTION in streams and not keeps_statistics:
        # Measured values are relative to the student's earlier statistics, if any.
        count_H, sum_H, squares_H = whole[-1].to(student.tower_mean_H.device)
        mean_H = sum_H / count_H
        variance_H = (squares_H - count_H * mean_H**2) / (count_H - 1)
        earlier_H = student.tower_std_H.double()
        student.tower_mean_H.add_((mean_H * earlier_H).float())
        student.tower_std_H.copy_((variance_H.clamp(min=0).sqrt() * earlier_H).clamp(min=1e-6))
    return means


def build_report_table(report: Mapping[str, Numbers], streams: Mapping[str, Stream]) -> Table:
    """Renders the validation before and after each stage, with the mean predictor."""
    table = Table(title="held-out clips: loss, and metric (higher is better)")
    table.add_column("stream", no_wrap=True)
    for heading in ("metric", "mean predictor", *report):
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
