"""The identity of a run in addition to its recipe, which must not change when it is resumed.

Targets, examples and the number of examples per optimizer step determine the result of a run, so
they are recorded at its start. Teachers are pinned to the versions at the start of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from manifests.errors import UserError
from student.config import Recipe, StageConfig


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Facts that must not change when a run is resumed."""

    version: str = ""
    """Version of this program, for information only."""
    corpus: str = ""
    """Digest of the corpus' clips."""
    examples: str = ""
    """`made_from` of the examples (`student.data.example_table.Summary`)."""
    chats: dict[str, str] = field(default_factory=dict)
    """Digest of each file of conversations."""
    teachers: list[str] = field(default_factory=list)
    """`NAME@FINGERPRINT` of every teacher."""
    examples_per_step: dict[str, int] = field(default_factory=dict)
    """Stage -> examples of one optimizer step, over all processes."""

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Identity:
        """Builds an identity from its JSON fields."""
        return cls(**values)

    def check_same(self, begun: Identity) -> None:
        """Checks that the versions of the teachers did not change.

        Args:
            begun: The identity at the start of the run; fields that an older version did not
                write are empty.

        Raises:
            UserError: they differ; the message lists the differences.
        """
        theirs, ours = set(begun.teachers), set(self.teachers)
        if theirs != ours:
            raise UserError(
                f"the run was started with other data: the teachers were {_listed(theirs - ours)} "
                f"and are {_listed(ours - theirs)}; continue with the original data, or choose "
                "another --out"
            )


def build_identity(
    recipe: Recipe, corpus: str, examples: str, teachers: list[str], *, num_processes: int
) -> Identity:
    """Builds the identity of a new run.

    Args:
        recipe: Recipe of the run.
        corpus: Digest of the corpus.
        examples: `made_from` of the examples.
        teachers: Keys of the teachers.
        num_processes: Number of processes that train together.
    """
    return Identity(
        version=metadata.version("coat-distill"),
        corpus=corpus,
        examples=examples,
        chats=digest_chats(recipe),
        teachers=sorted(teachers),
        examples_per_step={
            name: stage.batch_size * stage.accumulation * num_processes
            for name, stage in recipe.stages().items()
        },
    )


def digest_chats(recipe: Recipe) -> dict[str, str]:
    """Computes the digest of each file of conversations that exists."""
    return {
        path: hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for path in recipe.data.chats
        if Path(path).is_file()
    }


def fit_stage(
    name: str, stage: StageConfig, examples_per_step: int, *, num_processes: int
) -> StageConfig:
    """Adjusts a stage to a given number of examples per step with this number of processes.

    Batches of all processes are consecutive parts of one order, so any division has the same
    examples in the same step.

    Raises:
        UserError: the examples cannot be divided among the processes.
    """
    if examples_per_step == stage.batch_size * stage.accumulation * num_processes:
        return stage
    if examples_per_step % num_processes:
        raise UserError(
            f"{name} takes {examples_per_step} examples per step, which {num_processes} processes "
            "cannot share equally; continue with the original number of processes"
        )
    share = examples_per_step // num_processes
    size = max(size for size in range(1, stage.batch_size + 1) if share % size == 0)
    return replace(stage, batch_size=size, accumulation=share // size)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "fewer"
