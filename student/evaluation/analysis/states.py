"""Collects hidden states of a student at three groups of positions and every layer, for many clips.

Audio positions are the audio tokens of the prompt, thinking positions the block's content tokens.
The decision position is the last one of the prompt, which predicts the first token of the answer.
States of a thousand clips of a large model take tens of gigabytes, so they are stored in float16 in
a file per layer and group, and only one batch is in memory. A journal records which clips are in
the files.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from manifests.errors import UserError
from manifests.progress import progress
from student.data.arrow_files import take_space
from student.distill.alignment import span_matrix
from student.evaluation.analysis.state_edits import thinking_places
from student.evaluation.answering import QuestionRunner
from student.evaluation.journal import Journal
from student.evaluation.questions import Question
from student.inference.memory import explained_batch_memory

# Legend: L layers + 1 (the embeddings), C clips, K positions of a group, H width.

GROUPS = ("audio", "thinking", "decision")
PART = "states"
SECONDS_BETWEEN_RECORDS = 30.0
"""A kill costs at most these seconds and a batch; recording waits for the disk."""
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class States:
    """The states of one group of positions, layer by layer."""

    group: str
    layers: tuple[np.ndarray, ...]
    """L arrays values_CKH, float16, mapped from files; audio tokens are averaged to as many equal
    time spans as there are thinking positions; K is 1 for the decision."""


@torch.no_grad()
def collect(
    runner: QuestionRunner,
    questions: Sequence[Question],
    folder: Path,
    journal: Journal,
    *,
    num_spans: int,
) -> dict[str, States]:
    """Collects the states of all groups that a student has.

    Args:
        runner: The student.
        questions: One per clip.
        folder: Folder for the files of states.
        journal: Records which states are in the files. They are not computed again.
        num_spans: K of the audio group and, if there is a block, of the thinking group.

    Raises:
        UserError: the audio of a clip cannot be read.
    """
    student = runner.trained.student
    token = student.backbone.audio_token_id(student.base)
    files = StateFiles(folder, journal)
    with progress(f"states of {runner.path}", len(questions), "clips") as advance:
        advance(len(files.done))
        for batch in runner.batches(questions, done=frozenset(files.done)):
            with explained_batch_memory(len(batch.places)):
                outputs = student.base.model(
                    **batch.inputs,
                    **student.backbone.positions(batch.inputs),
                    output_hidden_states=True,
                    use_cache=False,
                )
            ids_BS = batch.inputs["input_ids"]
            for row, place in enumerate(batch.places):
                states_LSH = torch.stack([hidden[row] for hidden in outputs.hidden_states])
                groups = {
                    "audio": _spans(states_LSH[:, ids_BS[row] == token], num_spans),
                    "decision": states_LSH[:, -1:],
                }
                if student.block is not None:
                    groups["thinking"] = states_LSH[:, thinking_places(student, ids_BS[row])]
                files.write(place, groups, num_clips=len(questions))
            files.record()
            advance(len(batch.places))
    files.record(now=True)
    if runner.failures:
        raise UserError(next(iter(runner.failures.values())))
    return {
        name: States(name, tuple(files.groups[name])) for name in GROUPS if name in files.groups
    }


class StateFiles:
    """The files of states, and which clips are in them."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.groups: dict[str, list[np.memmap]] = {}
        self.done: set[int] = set()
        """Positions of the clips whose states are recorded in the journal."""
        self._folder, self._journal = folder, journal
        self._written: list[int] = []
        self._recorded = time.monotonic()
        shapes: dict[str, list[int]] = {}
        for entry in journal.entries(PART):
            shapes |= entry["shapes"]
            self.done |= set(entry["clips"])
        try:
            self.groups = {name: self._open(name, shape, "r+") for name, shape in shapes.items()}
        except (OSError, ValueError):  # a file was deleted or truncated
            self.groups, self.done = {}, set()
        if not self.done:
            journal.restart()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def write(self, place: int, groups: Mapping[str, Tensor], *, num_clips: int) -> None:
        """Writes the states values_LKH of one clip."""
        for name, values_LKH in groups.items():
            values = values_LKH.float().clamp(-_LARGEST, _LARGEST).cpu().numpy()
            if name not in self.groups:
                shape = [len(values), num_clips, *values.shape[1:]]
                try:
                    self.groups[name] = self._open(name, shape, "w+")
                except OSError:
                    shutil.rmtree(self._folder)
                    raise
            for file, values_KH in zip(self.groups[name], values, strict=True):
                file[place] = values_KH
        self._written.append(place)

    def record(self, *, now: bool = False) -> None:
        """Records the written clips in the journal, at most every SECONDS_BETWEEN_RECORDS."""
        if not self._written:
            return
        if not now and time.monotonic() - self._recorded < SECONDS_BETWEEN_RECORDS:
            return
        for files in self.groups.values():
            for file in files:
                file.flush()
        shapes = {name: [len(files), *files[0].shape] for name, files in self.groups.items()}
        self._journal.append(PART, {"shapes": shapes, "clips": self._written})
        self._written, self._recorded = [], time.monotonic()

    def _open(self, name: str, shape: Sequence[int], mode: Literal["r+", "w+"]) -> list[np.memmap]:
        """Maps one file per layer; `shape` is (L, C, K, H)."""
        files = []
        for layer in range(shape[0]):
            path = self._folder / f"{name}-{layer}.f16"
            files.append(np.memmap(path, np.float16, mode, shape=tuple(shape[1:])))
            if mode == "w+":
                take_space(path)
        return files


def _spans(states_LAH: Tensor, num_spans: int) -> Tensor:
    """Audio states averaged over equal time spans of the clip."""
    count = states_LAH.shape[1]
    weights_KA = torch.from_numpy(
        span_matrix(count, start_s=0.5, hop_s=1.0, duration=count, num_spans=num_spans).toarray()
    ).to(states_LAH.device)
    return torch.einsum("ka,lah->lkh", weights_KA, states_LAH.float())
