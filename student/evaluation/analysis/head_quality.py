"""Measures the quality of the heads on held-out clips, with each stream's metric and common ones.

A head predicts N frames per clip; targets are the teacher's frames on the same grid. Metrics are
those of `student.distill.metrics`, and common metrics of the field: note F1 (notes and onsets
decoded from both, compared by mir_eval's rules), voicing recall and false alarms.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from manifests.clips import Clip
from manifests.errors import UserError
from manifests.page.track_kinds import has_keys
from manifests.progress import progress
from manifests.streams.kinds import KINDS
from manifests.streams.notes import decode_notes, note_f1
from student.batch import Grid, collate, stream_targets
from student.data.dataset import ExampleDataset
from student.distill.kinds import to_target_units
from student.distill.stream_score import StreamScore
from student.distill.streams import RECONSTRUCTION, Stream
from student.evaluation.analysis.pictures import draw_predictions
from student.evaluation.results import finite
from student.inference.generate import TrainedStudent
from student.runs.folder import Run, replace_text
from student.runs.pinned import open_run_streams

# Legend: C clips, N frames (K * R), D columns.

FILE = "reading"


@torch.no_grad()
def read_run(run: str | Path, caches: Sequence[str], *, pictures: int = 3) -> dict:
    """Measures a run's heads on its held-out clips; writes RUN/reading.json and pictures.

    Args:
        run: A run with heads, of the arm coat or distill.
        caches: The caches with the targets of its training.
        pictures: Number of clips for which predictions and cached frames are plotted.

    Raises:
        UserError: the run has no heads.
    """
    folder = Run.open(run)
    recipe = folder.recipe
    if not recipe.distils:
        raise UserError(f"{run} is of the arm {recipe.arm}, which has no heads to read with")
    streams = open_run_streams(folder, caches)
    trained = TrainedStudent(run, heads=True)
    outputs, targets, clips = _predict(trained, streams, folder)
    report: dict[str, Any] = {
        "arm": recipe.arm,
        "seed": recipe.seed,
        "clips": len(clips),
        "streams": {},
    }
    means = folder.target_means()
    for name, stream in streams.items():
        if outputs[name]:
            report["streams"][name] = _measure(
                stream, outputs[name], targets[name], means.get(name)
            )
    grid = Grid.from_recipe(recipe, streams)
    token_s = 1 / trained.student.backbone.tokens_per_second

    def extent(clip: Clip, target_ND: np.ndarray) -> float:
        return grid.extent(len(target_ND), clip.likely_duration or 0.0, token_s)

    report["notes"] = _note_scores(streams, outputs, targets, clips, extent)
    report = finite(report)
    replace_text(folder.analysis_file(FILE), json.dumps(report, indent=1, allow_nan=False))
    for place in np.linspace(0, len(clips) - 1, min(pictures, len(clips))).astype(int):
        shown = {
            name: (stream, outputs[name][place], targets[name][place])
            for name, stream in streams.items()
            if len(outputs[name]) == len(clips) and name != RECONSTRUCTION
        }
        draw_predictions(
            folder.folder / f"reading-{clips[place].clip_id.replace('/', '-')}.png",
            clips[place],
            shown,
        )
    return report


def _predict(
    trained: TrainedStudent, streams: dict[str, Stream], run: Run
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]], list[Clip]]:
    """Outputs and targets per stream, for each held-out clip."""
    student = trained.student
    grid = Grid.from_recipe(trained.recipe, streams)
    examples, clips = [], {}
    for example, example_clips in run.held_out():
        if example.clip_ids[-1] not in clips:
            examples.append(example)
        clips |= {clip.clip_id: clip for clip in example_clips}
    dataset = ExampleDataset(
        examples,
        clips,
        trained.prompter,
        grid,
        audio_token_id=student.backbone.audio_token_id(student.base),
    )
    pad_id = trained.processor.tokenizer.pad_token_id
    batches = DataLoader(
        dataset, 16, collate_fn=functools.partial(collate, grid=grid, pad_id=pad_id)
    )
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in streams}
    targets: dict[str, list[np.ndarray]] = {name: [] for name in streams}
    with progress("metrics of the heads", len(batches), "batches") as advance:
        for batch in batches:
            batch = batch.to(trained.device)
            result = student(
                batch.inputs, batch.labels_BS, batch.audio_weights_BNS, with_answer=False
            )
            counts = batch.num_blocks_B.tolist()
            for name, (target_BND, covered_BN) in stream_targets(batch, result).items():
                both = (outputs, result.frames[name].float()), (targets, target_BND)
                for lists, values_BND in both:
                    by_clip = zip(values_BND.split(counts), covered_BN.split(counts), strict=True)
                    lists[name] += [
                        blocks_BND[known_BN].cpu().numpy()
                        for blocks_BND, known_BN in by_clip
                        if known_BN.any()
                    ]
            advance()
    return outputs, targets, [clips[example.clip_ids[-1]] for example in examples]


def _note_scores(
    streams: dict[str, Stream],
    outputs: dict[str, list[np.ndarray]],
    targets: dict[str, list[np.ndarray]],
    clips: list[Clip],
    extent: Callable[[Clip, np.ndarray], float],
) -> dict[str, dict[str, float]]:
    """Compares notes decoded from a teacher's heads and targets: precision, recall and F1.

    Both are on the student's grid, which is coarser than the teacher's: for long clips, it cannot
    locate an onset within 50 ms.
    """
    scores = {}
    for name, stream in streams.items():
        teacher, _, part = name.partition(".")
        onsets = f"{teacher}.onsets"
        spec = stream.reader.spec if stream.reader else None
        if part != "notes" or spec is None or not has_keys(spec) or onsets not in streams:
            continue
        if not len(outputs[name]) == len(outputs[onsets]) == len(clips):
            continue
        clip_scores = []
        for place, clip in enumerate(clips):
            hop_s = extent(clip, targets[name][place]) / len(targets[name][place])
            if not hop_s:
                continue
            heads = (to_target_units(streams[n].kind, outputs[n][place]) for n in (name, onsets))
            cached = (targets[n][place] for n in (name, onsets))
            predicted, reference = (
                decode_notes(
                    *pair, hop_s=hop_s, lowest_midi=int(spec.names[0].removeprefix("midi ")),
                    onset_threshold=stream.threshold, note_threshold=0.6 * stream.threshold,
                )
                for pair in (heads, cached)
            )  # fmt: skip
            clip_scores.append(note_f1(reference, predicted))
        if clip_scores:
            scores[teacher] = {
                key: _nanmean([score[key] for score in clip_scores]) for key in clip_scores[0]
            }
    return scores


def _nanmean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _measure(
    stream: Stream,
    outputs: list[np.ndarray],
    targets: list[np.ndarray],
    mean_D: np.ndarray | None,
) -> dict:
    """Scores a stream's outputs, and the mean of the training clips (that of the scored clips for
    runs that do not have it) as the baseline."""
    output_MD, target_MD = np.concatenate(outputs), np.concatenate(targets)
    baseline_D: np.ndarray = target_MD.mean(0) if mean_D is None else mean_D
    score = StreamScore.from_frames(stream, output_MD, target_MD, mean_D=baseline_D)
    return {
        "kind": stream.kind,
        "clips": len(outputs),
        "metric": KINDS[stream.kind].metric_name,
        "score": score.metric,
        "mean_predictor": score.mean_predictor,
        **score.details,
    }
