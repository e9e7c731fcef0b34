"""The folder of a training run: `Run` defines all of its files.

RUN/recipe.yaml        the recipe, every field stated
RUN/sources.json       corpus, teachers with licences, what each stream means
RUN/identity.json      what must not change when the run is resumed
RUN/held_out.jsonl     the held-out examples and the locations of their audio
RUN/examples/          clips and examples as memory-mapped files, rebuilt if missing
RUN/base/              the checkpoint of a small student, if the recipe builds one
RUN/STAGE/             checkpoints, and student.safetensors once the stage is finished
RUN/metrics.jsonl      every log line
RUN/report.json        validation before and after each stage
RUN/target_means.json  mean target of each stream over training clips, the baseline of the heads
RUN/eval/NAME.json     scores of a set of questions; NAME.answers.jsonl has every reply, and
                       NAME.part.jsonl those of an unfinished evaluation
RUN/ablation.json, probes.json, reading.json    results of the analyses; ablation.part.jsonl,
                       probes.part.jsonl and probes.states/ belong to unfinished ones

A folder with an exported or unmodified checkpoint is not a run, but stores evaluations in the same
way.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from manifests.clips import Clip
from manifests.console import console
from manifests.errors import UserError
from manifests.file_list import find_cut_file
from manifests.folder_lock import folder_lock
from manifests.storage import Folder
from student.config import Recipe, StreamConfig
from student.data.example_table import ExampleTable, Summary
from student.data.examples import Example
from student.data.held_out import HELD_OUT_FILE, read_held_out, write_held_out
from student.distill.streams import Stream
from student.model.small import build_small
from student.model.tiny import build_tiny
from student.recipe_files import RECIPE_FILE, differences, load_recipe, save_recipe
from student.runs.checkpoints import find_damage
from student.runs.identity import Identity
from student.runs.sources import Sources

STATE_FILE = "student.safetensors"
"""File of the trained state, in a checkpoint and at the end of a stage."""
LOCK_FILE = "training.lock"
CHECKPOINT = "checkpoint-"
"""Prefix of checkpoint folders; the number of steps follows."""

Numbers = dict[str, float]
"""`answer_loss`; per stream `STREAM/loss`, `STREAM/metric` and `STREAM/mean_predictor`."""


class Run:
    """The folder of one run; files are read on access."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.recipe_file = self.folder / RECIPE_FILE
        self.sources_file = self.folder / "sources.json"
        self.identity_file = self.folder / "identity.json"
        self.held_out_file = self.folder / HELD_OUT_FILE
        self.log_file = self.folder / "metrics.jsonl"
        self.report_file = self.folder / "report.json"
        self.means_file = self.folder / "target_means.json"
        self.base_folder = self.folder / "base"
        self.examples_folder = self.folder / "examples"

    def lock(self) -> AbstractContextManager[None]:
        """Holds the folder for one training.

        Raises:
            UserError: the folder cannot be created, or another training holds it.
        """
        return folder_lock(self.folder, LOCK_FILE, what="training run")

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Opens an existing run.

        Raises:
            UserError: the folder has no recipe.
        """
        run = cls(folder)
        if not run.exists:
            raise UserError(
                f"{folder} is not a run: it has no {run.recipe_file.name}; see coat-student train "
                "--out"
            )
        return run

    @property
    def exists(self) -> bool:
        """Whether a run was started in this folder."""
        return self.recipe_file.is_file()

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return load_recipe(self.recipe_file, quiet=True)

    @property
    def base(self) -> str:
        """Folder or hub id of the backbone's checkpoint."""
        return self.recipe.model.path or str(self.base_folder)

    @functools.cached_property
    def sources(self) -> Sources:
        """The sources of the run.

        Raises:
            UserError: the run has no such file.
        """
        if not self.sources_file.is_file():
            raise UserError(
                f"{self.folder} has no {self.sources_file.name}: it was written by an older "
                "version; "
                "train again"
            )
        return Sources.from_fields(json.loads(self.sources_file.read_text("utf-8")))

    @functools.cached_property
    def identity(self) -> Identity:
        """The identity of the run, which must not change; older runs have only teachers."""
        if self.identity_file.is_file():
            return Identity.from_fields(json.loads(self.identity_file.read_text("utf-8")))
        return Identity(teachers=sorted(teacher.key for teacher in self.sources.teachers))

    def pinned_streams(
        self, recipe: Recipe
    ) -> tuple[Mapping[str, StreamConfig] | None, dict[str, str]]:
        """(the streams of a run, name of a teacher -> its version), as at the start of the run."""
        if not self.exists:
            return recipe.streams, {}
        streams = recipe.streams
        if streams is None:
            streams = {name: StreamConfig() for name in self.sources.streams}
        keys = [teacher.key for teacher in self.sources.teachers]
        return streams, {key.partition("@")[0]: key for key in keys}

    def streams(self) -> dict[str, Stream]:
        """The distilled streams without their cache, sufficient for loading heads."""
        if not self.recipe.distils:
            return {}
        settings = self.recipe.streams or {}
        return {
            name: source.as_stream(name, settings.get(name, StreamConfig()))
            for name, source in self.sources.streams.items()
        }

    def held_out_digest(self) -> str:
        """A hash of the held-out examples; runs can only be compared if theirs are equal."""
        file = self.held_out_file
        content = file.read_bytes() if file.is_file() else b""
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def held_out(self) -> Iterator[tuple[Example, list[Clip]]]:
        """The held-out examples, with their clips."""
        return read_held_out(self.folder)

    def check_same(self, recipe: Recipe) -> None:
        """Checks that the recipe is that of the run; a run that has trained nothing is restarted.

        Raises:
            UserError: some fields differ; the message lists them.
        """
        changed = differences(recipe, self.recipe) if self.exists else []
        if changed and not self.has_trained:
            self.clear()
        elif changed:
            raise UserError(
                f"{self.folder} was started with another recipe ({'; '.join(changed)}); continue "
                "with that one, or choose another --out"
            )

    def create(
        self,
        recipe: Recipe,
        sources: Sources,
        identity: Identity,
        *,
        learning: ExampleTable,
        held_out: ExampleTable,
    ) -> None:
        """Creates the folder; an existing run is not changed."""
        if self.exists:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if recipe.model.build == "small":
            build_small(self.base_folder, recipe.model.small, seed=recipe.seed)
        elif recipe.model.build == "tiny":
            questions = [example.messages[-1]["content"][-1]["text"] for example in learning]
            texts = questions + [example.answer for example in learning]
            build_tiny(self.base_folder, recipe.model.tiny, texts, seed=recipe.seed)
        write_held_out(self.folder, held_out, held_out.clips)
        replace_text(self.sources_file, json.dumps(asdict(sources), indent=1))
        replace_text(self.identity_file, json.dumps(asdict(identity), indent=1))
        # The recipe is written last and atomically: it marks the start of the run.
        part = self.folder / f"{self.recipe_file.name}.part"
        save_recipe(recipe, part)
        part.rename(self.recipe_file)

    def has_examples(self) -> bool:
        """Whether the folder has the complete examples with which the run was started."""
        summary = Summary.read(self.examples_folder)
        if summary is None or find_cut_file(self.examples_folder):
            return False
        if self.identity.examples:
            return summary.made_from == self.identity.examples
        return summary.clips == self.sources.clips  # A run of an earlier version.

    @property
    def has_trained(self) -> bool:
        """Whether there is a checkpoint or a finished stage."""
        stages = self.recipe.stages()
        return any(self.checkpoints(name) or self.state(name).is_file() for name in stages)

    def clear(self) -> None:
        """Deletes the files of a run that has trained nothing."""
        for file in (self.recipe_file, self.sources_file, self.identity_file, self.held_out_file,
                     self.log_file, self.report_file, self.means_file):  # fmt: skip
            file.unlink(missing_ok=True)
        for folder in (self.base_folder, self.stage("align"), self.stage("joint")):
            shutil.rmtree(folder, ignore_errors=True)
        for cached in ("recipe", "sources", "identity"):
            vars(self).pop(cached, None)

    def stage(self, name: str) -> Path:
        """Folder of a stage."""
        return self.folder / name

    def state(self, stage: str) -> Path:
        """File with the trained state of a stage; it exists when the stage is finished."""
        return self.stage(stage) / STATE_FILE

    def finished_stages(self) -> list[str]:
        """Names of the finished stages, in order."""
        return [name for name in self.recipe.stages() if self.state(name).is_file()]

    def last_state(self) -> Path:
        """File with the trained state of the last finished stage.

        Raises:
            UserError: no stage is finished.
        """
        finished = self.finished_stages()
        if not finished:
            raise UserError(
                f"{self.folder} has no finished stage yet; run the same coat-student train again"
            )
        return self.state(finished[-1])

    def checkpoints(self, stage: str) -> list[Path]:
        """Complete checkpoints of a stage, oldest first."""
        folders = self.stage(stage).glob(f"{CHECKPOINT}*")
        return sorted((folder for folder in folders if not _damage(folder)), key=_steps)

    def remove_unfinished(self, stage: str) -> None:
        """Deletes incomplete checkpoints."""
        for folder in self.stage(stage).glob(f"{CHECKPOINT}*"):
            if damaged := _damage(folder):
                console.print(
                    f"{stage}: {folder.name} is removed: its {damaged} is missing or was not "
                    "written to its end"
                )
                shutil.rmtree(folder)
        for folder in self.stage(stage).glob(f"unfinished-{CHECKPOINT}*"):
            shutil.rmtree(folder)  # left by earlier versions

    def report(self) -> dict[str, Numbers]:
        """`before` and each finished stage -> its numbers."""
        if not self.report_file.is_file():
            return {}
        report = json.loads(self.report_file.read_text("utf-8"))
        return {
            stage: {name: math.nan if value is None else value for name, value in numbers.items()}
            for stage, numbers in report.items()
        }

    def write_report(self, report: Mapping[str, Numbers]) -> None:
        """Replaces the report atomically."""
        text = json.dumps(_finite(report), indent=1, allow_nan=False)
        replace_text(self.report_file, text)

    def write_target_means(self, means: Mapping[str, np.ndarray]) -> None:
        """Writes the mean target_D of each stream over training clips."""
        lists = {name: mean_D.tolist() for name, mean_D in means.items()}
        replace_text(self.means_file, json.dumps(lists))

    def target_means(self) -> dict[str, np.ndarray]:
        """Stream -> mean target_D; empty for runs of earlier versions."""
        if not self.means_file.is_file():
            return {}
        lists = json.loads(self.means_file.read_text("utf-8"))
        return {name: np.array(mean, np.float32) for name, mean in lists.items()}

    def log(self) -> list[dict[str, Any]]:
        """Every log line; a line that was truncated by a kill is skipped."""
        lines = []
        if self.log_file.is_file():
            for text in self.log_file.read_text("utf-8").splitlines():
                try:
                    lines.append(json.loads(text))
                except ValueError:
                    continue
        return lines

    def append_log(self, line: Mapping[str, Any]) -> None:
        """Appends one log line; NaN and infinity become null."""
        text = json.dumps(_finite(line), allow_nan=False) + "\n"
        with self.log_file.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a full disk or a kill truncated the last line
                    text = "\n" + text
            file.write(text.encode())

    def drop_log(self, stage: str, *, after: int) -> None:
        """Deletes a stage's log lines after a step, from which the stage is resumed."""
        lines = self.log()
        kept = [line for line in lines if line.get("stage") != stage or line["step"] <= after]
        if len(kept) < len(lines):
            replace_text(self.log_file, "".join(json.dumps(line) + "\n" for line in kept))

    def analysis_file(self, name: str) -> Path:
        """The file with the results of an analysis (`ablation`, `probes`, `reading`)."""
        return self.folder / f"{name}.json"

    def scores_file(self, name: str) -> Path:
        """The file with the scores of a set of questions."""
        return self.folder / "eval" / f"{name}.json"

    def answers_file(self, name: str) -> Path:
        """The file with all replies to a set of questions."""
        return self.folder / "eval" / f"{name}.answers.jsonl"

    def unfinished_answers_file(self, name: str) -> Path:
        """The file with the replies of an unfinished evaluation."""
        return self.folder / "eval" / f"{name}.part.jsonl"

    def unfinished_analysis_file(self, name: str) -> Path:
        """The file with the parts of an unfinished analysis."""
        return self.folder / f"{name}.part.jsonl"


def find_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Finds the runs at some paths; a folder without a recipe stands for the runs in it.

    Raises:
        UserError: there is no run.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        inner = [path] if Run(path).exists else []
        inner = inner or sorted(file.parent for file in path.glob(f"*/{RECIPE_FILE}"))
        if not inner:
            raise UserError(
                f"{path} is neither a run nor a folder of runs: there is no recipe.yaml; see "
                "coat-student train --out"
            )
        folders += inner
    return [Run(folder) for folder in dict.fromkeys(folders)]


def replace_text(path: Path, text: str) -> None:
    """Writes a file atomically."""
    Folder(path.parent).write_atomic(path.name, text.encode())


def _finite(value: Any) -> Any:
    """Replaces NaN and infinity by None."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _damage(checkpoint: Path) -> str | None:
    return find_damage(checkpoint, STATE_FILE)


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(CHECKPOINT))
