"""Creates the report of runs: reads their files, computes predictions of one student, and writes
one HTML file.

Curves, validation and cost come from files alone, so the report works while runs are training, and
without their backbone. Only predictions need a model and the cache of its training.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from manifests.page import assemble
from manifests.streams.kinds import KINDS
from student.report import predictions
from student.report import runs as files
from student.report.runs import Run
from student.runs.folder import Run as RunFolder
from student.runs.folder import find_runs
from student.runs.pinned import open_run_streams

logger = logging.getLogger(__name__)

SECTIONS = {
    "arms": "Arms",
    "curves": "Training curves",
    "streams": "Before and after",
    "answers": "Held-out answers",
    "clips": "Predicted against cached",
    "evaluation": "Is the block used?",
    "cost": "Cost",
}
SCRIPTS = ("sections.js", "answers.js", "evaluation.js", "main.js")


def write(
    paths: Sequence[str], out: str, *, caches: Sequence[str], clips: int, console: Console
) -> assemble.WrittenPage:
    """Reads runs and writes the page.

    Args:
        paths: Folders of runs, or folders that contain runs.
        out: Folder for the page.
        caches: The caches of their training; without them, there are no predictions.
        clips: Held-out clips to predict.
        console: Progress is shown here.

    Returns:
        The page.

    Raises:
        UserError: there is no run, the caches lack its streams, or the page has no free place.
    """
    assemble.check_place(out)
    runs = files.read(find_runs(paths))
    predicting = _choose_predicting(runs)
    names = _metric_names(runs)
    exhibits: list[Any] = []
    if caches and predicting is not None:
        exhibits = _predict(predicting, caches, clips, console)
    facts = {
        "runs": runs,
        "metrics": names,
        "predicting": _describe(predicting) if predicting and exhibits else "",
        "read_from": _read_from(predicting) if predicting else "",
        "clips": exhibits,
    }
    has_content = {
        "arms": len(runs) > 1,
        "clips": bool(exhibits),
        "answers": any(run.scores for run in runs),
        "evaluation": any(run.evaluations for run in runs),
    }
    sections = {key: title for key, title in SECTIONS.items() if has_content.get(key, True)}
    return assemble.write(
        out, sections=sections, package="student.report", scripts=SCRIPTS, facts=facts
    )


def _metric_names(runs: Sequence[Run]) -> dict[str, str]:
    """Stream -> name of its metric, from the sources of the runs."""
    names: dict[str, str] = {}
    for run in runs:
        folder = RunFolder(run.folder)
        if folder.sources_file.is_file():
            for name, source in folder.sources.streams.items():
                names[name] = KINDS[source.kind].metric_name
    return names


def _choose_predicting(runs: Sequence[Run]) -> Run | None:
    """Selects the run whose predictions are shown: the first with heads and a finished stage,
    preferably one whose stages are all finished and that has a block."""
    with_heads = [run for run in runs if run.costs and RunFolder(run.folder).recipe.distils]
    with_heads.sort(
        key=lambda run: (not run.is_finished, not RunFolder(run.folder).recipe.has_block)
    )
    return with_heads[0] if with_heads else None


def _describe(run: Run) -> str:
    return run.name if run.is_finished else f"{run.name} (not finished: {run.state})"


def _read_from(run: Run) -> str:
    """Describes the hidden states that the heads of a run read."""
    has_block = RunFolder(run.folder).recipe.has_block
    return "the thinking block" if has_block else "the audio tokens"


def _predict(run: Run, caches: Sequence[str], clips: int, console: Console) -> list[Any]:
    """Computes clips with the predictions of a run's heads."""
    folder = Path(run.folder)
    streams = open_run_streams(RunFolder(folder), caches)
    chosen = predictions.choose(folder, clips)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        predicted = predictions.predict_clips(folder, streams, chosen)
        shown = list(progress.track(predicted, len(chosen), description="predicting"))
    if len(shown) < len(chosen):
        missing = len(chosen) - len(shown)
        logger.warning("%d of %d held-out clips have no audio here", missing, len(chosen))
    return shown
