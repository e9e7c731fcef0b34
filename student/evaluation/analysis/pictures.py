"""Plots of evaluations: conditions, probes, and predicted and cached targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from manifests.clips import Clip
from manifests.page.figure import draw_tracks
from student.distill.streams import Stream
from student.inference.head_tracks import paired_tracks

# Legend: N frames, D columns.

ARM_COLOURS = {
    "base": "0.6",
    "sft": "tab:blue",
    "pause": "tab:orange",
    "distill": "tab:purple",
    "coat": "tab:green",
    "livr": "tab:red",
    "coat+bottleneck": "tab:olive",
    "both": "tab:cyan",
}
DPI = 90


def draw_predictions(
    path: Path, clip: Clip, shown: Mapping[str, tuple[Stream, np.ndarray, np.ndarray]]
) -> None:
    """Plots one clip: the cached frames of every stream above the frames predicted by the head.

    Args:
        path: PNG file.
        clip: The clip.
        shown: Stream name -> (stream, output_ND of its head, target_ND).
    """
    seconds = clip.likely_duration or 1.0
    tracks = [
        track
        for stream, output_ND, target_ND in shown.values()
        for track in paired_tracks(stream, output_ND, target_ND, seconds=seconds)
    ]
    draw_tracks(tracks, seconds=seconds, title=clip.clip_id).savefig(path, dpi=DPI)


def draw_ablation(path: Path, reports: Sequence[Mapping]) -> None:
    """Draws the mean score under each condition; a group of bars per run, with intervals."""
    conditions = list(max((report["conditions"] for report in reports), key=len))
    figure = Figure(figsize=(1.1 * len(conditions) + 2, 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(reports)
    for number, report in enumerate(reports):
        means = {
            name: report["conditions"][name]["mean"]
            for name in conditions
            if name in report["conditions"]
        }
        shift = (number - (len(reports) - 1) / 2) * width
        places = [conditions.index(name) + shift for name in means]
        scores = np.array([mean["score"] for mean in means.values()])
        ends = np.array(
            [
                # A single question has no confidence interval.
                [mean["score"] if mean[end] is None else mean[end] for end in ("low", "high")]
                for mean in means.values()
            ]
        ).T
        axis.bar(
            places,
            scores,
            width * 0.9,
            yerr=np.abs(ends - scores),
            color=ARM_COLOURS[report["arm"]],
            label=f"{report['arm']}, seed {report['seed']}",
            error_kw={"lw": 0.8},
        )
    axis.set_xticks(range(len(conditions)), conditions, rotation=20, ha="right", fontsize=9)
    axis.set_ylabel("mean score over tasks")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=DPI)


def draw_probes(path: Path, reports: Sequence[Mapping], *, clips: str = "") -> None:
    """Draws a heat map of targets by layers, one panel per group, runs side by side.

    Args:
        path: PNG file.
        reports: Reports of runs.
        clips: A text about the probed clips, above the picture.
    """
    groups = list(
        dict.fromkeys(
            group
            for report in reports
            for target in report["targets"].values()
            for group in target["scores"]
        )
    )
    names = list(reports[0]["targets"])
    figure = Figure(
        figsize=(2.6 * len(reports) + 2, 0.32 * len(names) * len(groups) + 1.5),
        layout="constrained",
    )
    axes = figure.subplots(len(groups), len(reports), squeeze=False)
    for row, group in enumerate(groups):
        for column, report in enumerate(reports):
            axis = axes[row, column]
            layers = len(next(iter(report["targets"].values()))["scores"]["audio"])
            values = np.array(
                [report["targets"][name]["scores"].get(group, [np.nan] * layers) for name in names]
            )
            axis.imshow(values, aspect="auto", vmin=0, vmax=1, cmap="viridis")
            for (y, x), value in np.ndenumerate(values):
                if np.isfinite(value):
                    axis.text(
                        x,
                        y,
                        f"{value:.2f}",
                        ha="center",
                        va="center",
                        fontsize=6,
                        color="white" if value < 0.6 else "black",
                    )
            shown = names if column == 0 else [""] * len(names)
            axis.set_yticks(range(len(names)), shown, fontsize=7)
            axis.set_xticks(range(layers), [str(layer) for layer in range(layers)], fontsize=7)
            title = f"{report['arm']}, seed {report['seed']}: " if row == 0 else ""
            axis.set_title(f"{title}{group}", fontsize=8)
    axes[-1, 0].set_xlabel("hidden state (0: embeddings)", fontsize=8)
    if clips:
        figure.suptitle(clips, fontsize=8)
    figure.savefig(path, dpi=DPI)
