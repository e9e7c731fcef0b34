"""The folder of a run: recipe, sources, held-out examples, report; made once, then checked.

RUN/recipe.yaml        every field stated; another recipe is refused
RUN/sources.json       corpus, teachers with licences, what each stream means
RUN/held_out.jsonl     the held-out examples, with where their audio is
RUN/base/              the checkpoint of a small student that was built on the spot
RUN/STAGE/             checkpoints, and student.safetensors once the stage is finished
RUN/metrics.jsonl      every log line
RUN/report.json        validation before and after each stage
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from manifests.clips import Clip
from manifests.errors import UserError
from student.config import Recipe, differences, load_recipe, save_recipe
from student.data.examples import Example, write_held_out
from student.distill.metrics import NAMES
from student.distill.streams import Stream
from student.model.tiny import build_tiny
from student.runs.sources import Sources, write_sources
from student.training.validation import Numbers

RECIPE_FILE = "recipe.yaml"
REPORT_FILE = "report.json"


def check_same(run: Path, recipe: Recipe) -> None:
    """Refuses to go on with a run of another recipe.

    Raises:
        UserError: it says which fields differ.
    """
    written = run / RECIPE_FILE
    if written.is_file():
        changed = differences(recipe, load_recipe(written))
        if changed:
            raise UserError(
                f"{run} was begun with another recipe ({'; '.join(changed)}); go on with that one, "
                "or choose another --out"
            )


def begin(
    run: Path,
    recipe: Recipe,
    learning: Sequence[Example],
    checking: Sequence[Example],
    clips: Mapping[str, Clip],
    sources: Sources,
) -> str:
    """Makes the run's folder if it is not there; the path of the backbone's checkpoint."""
    base = run / "base"
    if not (run / RECIPE_FILE).is_file():
        run.mkdir(parents=True, exist_ok=True)
        if recipe.model.build is not None:
            questions = [example.messages[-1]["content"][-1]["text"] for example in learning]
            texts = questions + [example.answer for example in learning]
            build_tiny(base, recipe.model.tiny, texts, seed=recipe.seed)
        write_held_out(run, checking, clips)
        write_sources(run, sources)
        save_recipe(recipe, run / RECIPE_FILE)
    return recipe.model.path or str(base)


def read_report(run: Path) -> dict[str, Numbers]:
    """`before` and each finished stage -> its numbers."""
    path = run / REPORT_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def write_report(run: Path, report: Mapping[str, Numbers]) -> None:
    """Replaces the report, whole or not at all."""
    part = run / f"{REPORT_FILE}.part"
    part.write_text(json.dumps(report, indent=1))
    part.rename(run / REPORT_FILE)


def build_table(report: dict[str, Numbers], streams: dict[str, Stream]) -> Table:
    """Validation before and after each stage, beside the mean predictor."""
    table = Table(title="held-out clips: loss, and metric where higher is better")
    table.add_column("stream", no_wrap=True)
    for heading in ("metric", "stream's mean", *report):
        table.add_column(heading, justify="right")
    answer = [f"{numbers['answer_loss']:.3f}" for numbers in report.values()]
    table.add_row("answer", "loss", "", *answer)
    for name, stream in streams.items():
        baseline = next(iter(report.values()))[f"{name}/mean_predictor"]
        cells = [
            f"{numbers[f'{name}/loss']:.3f}  {_shown(numbers[f'{name}/metric'])}"
            for numbers in report.values()
        ]
        table.add_row(name, f"loss, {NAMES[stream.kind]}", _shown(baseline), *cells)
    return table


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
