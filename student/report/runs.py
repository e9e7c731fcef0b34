"""Reads the data of runs for the report from their files: curves, validation, cost.

A folder with several runs, as written by `coat-student arms`, stands for all of them. Runs whose
recipes differ only in the seed form a group, for which means and deviations are shown.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from student.config import Recipe
from student.library_internals import is_token_row
from student.recipe_files import differences
from student.runs.folder import Run as RunFolder

EVALUATIONS = ("ablation", "probes")
"""JSON files of analyses in a run, shown if they exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One loss of one run over the steps of all its stages."""

    steps: list[int]
    """Optimizer steps, counted over all stages."""
    values: list[float]
    checked_steps: list[int]
    """Steps at which it was validated."""
    checked: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of one stage."""

    stage: str
    learns: str
    """The trained parameters: `heads`, `embeddings`, `lora` or `full`."""
    steps: int
    examples: int
    """Number of processed examples, including repetitions."""
    seconds: float | None
    """Time that the trainer logged; for a resumed stage, the time since then."""
    parameters: dict[str, int]
    """Number of trained parameters in rows, backbone and heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run."""

    name: str
    """The run's folder, shortened to a unique name."""
    folder: str
    group: str
    """Runs of one group differ only in their seed."""
    arm: str
    has_heads: bool
    seed: int
    backbone: str
    parameters: int | None
    """Number of parameters of the backbone, if its files exist."""
    boundaries: list[tuple[str, int]]
    """(stage, the step after which it starts)."""
    curves: dict[str, Curve]
    """`answer`, and every stream."""
    validation: dict[str, dict[str, float | None]]
    """`before` and each finished stage -> numbers, see `student.training.validation.Numbers`."""
    costs: list[Cost]
    held_out: str
    """Digest of the held-out examples."""
    num_held_out: int
    evaluations: dict[str, Any]
    """`ablation` and `probes`, if they exist."""
    scores: dict[str, Any]
    """Name of a set of questions -> the scores written by `eval`."""
    is_finished: bool
    """Whether the last stage is finished."""
    state: str
    """The last finished stage, such as `after align`."""


def read(folders: Sequence[RunFolder]) -> list[Run]:
    """Reads all runs, ordered by group."""
    recipes = [folder.recipe for folder in folders]
    names = _short_names([folder.folder for folder in folders])
    groups: list[tuple[Recipe, str]] = []
    runs = []
    for folder, recipe, name in zip(folders, recipes, names, strict=True):
        unseeded = dataclasses.replace(recipe, seed=0)
        group = next((known for other, known in groups if not differences(unseeded, other)), None)
        if group is None:
            taken = {known for _, known in groups}
            group = recipe.arm if recipe.arm not in taken else name
            groups.append((unseeded, group))
        runs.append(_run(folder, recipe, name, group))
    order = [group for _, group in groups]
    return sorted(runs, key=lambda run: (order.index(run.group), run.seed))


def _run(files: RunFolder, recipe: Recipe, name: str, group: str) -> Run:
    logs = _logs(files)
    stages = list(recipe.stages())
    ends = {stage: max((line["step"] for line in logs[stage]), default=0) for stage in stages}
    begins = {
        stage: sum(ends[earlier] for earlier in stages[:place])
        for place, stage in enumerate(stages)
    }
    validation = _finite(files.report())
    finished = [stage for stage in stages if stage in validation]
    held_out = files.held_out_file
    rows = held_out.read_bytes() if held_out.is_file() else b""
    return Run(
        name=name,
        folder=str(files.folder),
        group=group,
        arm=recipe.arm,
        has_heads=recipe.distils,
        seed=recipe.seed,
        backbone=recipe.model.path or f"small {recipe.model.tiny.family}",
        parameters=sum(map(_sizes, Path(files.base).glob("*.safetensors"))) or None,
        boundaries=[(stage, begins[stage]) for stage in stages],
        curves=_curves(logs, begins, ends, validation),
        validation=validation,
        costs=[
            cost
            for stage in stages
            if (cost := _cost(files, recipe, stage, logs[stage])) is not None
        ],
        held_out=files.held_out_digest(),
        num_held_out=len(rows.splitlines()),
        evaluations={
            name: _finite(json.loads(path.read_text("utf-8")))
            for name in EVALUATIONS
            if (path := files.analysis_file(name)).is_file()
        },
        scores={
            path.stem: analysis
            for path in sorted(files.scores_file("*").parent.glob("*.json"))
            if "tasks" in (analysis := _finite(json.loads(path.read_text("utf-8"))))
        },
        is_finished=stages[-1] in finished,
        state=f"after {finished[-1]}" if finished else "no stage is finished",
    )


def _short_names(folders: Sequence[Path]) -> list[str]:
    names = [folder.name for folder in map(Path.absolute, folders)]
    if len(set(names)) == len(names):
        return names
    return [f"{folder.absolute().parent.name}/{folder.name}" for folder in folders]


def _logs(files: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """Stage -> its lines of metrics.jsonl; for repeated steps, the later line."""
    lines: defaultdict[str, dict[tuple[int, bool], dict[str, Any]]] = defaultdict(dict)
    for line in files.log():
        key = line["step"], "loss" in line
        lines[line["stage"]][key] = lines[line["stage"]].get(key, {}) | line
    ordered = {
        stage: [by_step[key] for key in sorted(by_step, key=lambda key: key[0])]
        for stage, by_step in lines.items()
    }
    return defaultdict(list, ordered)


def _curves(
    logs: dict[str, list[dict[str, Any]]],
    begins: dict[str, int],
    ends: dict[str, int],
    validation: dict[str, dict[str, float | None]],
) -> dict[str, Curve]:
    parts: dict[str, Curve] = {}

    def curve(part: str) -> Curve:
        return parts.setdefault(part, Curve(steps=[], values=[], checked_steps=[], checked=[]))

    checks = {"before": 0} | {stage: begins[stage] + ends[stage] for stage in begins}
    checked = [(checks[stage], numbers) for stage, numbers in validation.items() if stage in checks]
    for stage, begin in begins.items():
        for line in logs[stage]:
            step = begin + line["step"]
            for key, value in line.items():
                if key.startswith("loss/") and math.isfinite(value):
                    line_curve = curve(key.removeprefix("loss/"))
                    line_curve.steps.append(step)
                    line_curve.values.append(value)
            numbers_of_line = {
                key[5:]: value for key, value in line.items() if key.startswith("eval_")
            }
            if numbers_of_line:
                checked.append((step, _finite(numbers_of_line)))
    for step, numbers in sorted(checked, key=lambda line_curve: line_curve[0]):
        for key, value in numbers.items():
            part = "answer" if key == "answer_loss" else key.removesuffix("/loss")
            whole = key == "answer_loss" or key.endswith("/loss")
            if whole and value is not None and step not in curve(part).checked_steps:
                curve(part).checked_steps.append(step)
                curve(part).checked.append(value)
    return parts


def _cost(files: RunFolder, recipe: Recipe, stage: str, logs: list[dict[str, Any]]) -> Cost | None:
    state = files.state(stage)
    if not logs and not state.is_file():
        return None
    logged = [line for line in logs if "train_runtime" in line]
    settings = recipe.stages()[stage]
    steps = max((line["step"] for line in logs), default=0)
    speed = logged[-1]["train_samples_per_second"] if logged else 0.0
    seconds = sum(line["train_runtime"] for line in logged) if logged else None
    return Cost(
        stage=stage,
        learns=recipe.learns(settings),
        steps=steps,
        examples=round(speed * logged[-1]["train_runtime"]) if logged else 0,
        seconds=seconds,
        parameters=_learnt(state) if state.is_file() else {},
    )


def _learnt(path: Path) -> dict[str, int]:
    """Counts parameters in a state file by part, as in `Student.part`."""
    counts = {"rows": 0, "backbone": 0, "heads": 0}
    with safe_open(path, "np") as state:
        for name in state.keys():  # noqa: SIM118
            if name.startswith("tower_"):
                continue
            part = "rows" if is_token_row(name) else "backbone"
            part = "heads" if name.startswith("heads.") else part
            counts[part] += math.prod(state.get_slice(name).get_shape())
    return counts


def _sizes(path: Path) -> int:
    with safe_open(path, "np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _finite(value: Any) -> Any:
    """Replaces NaN and infinity by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
