"""The interface between the pipeline and an expert.

A teacher owns its model: it describes itself without loading anything, loads once per worker, and
turns a batch of waveforms into targets. Rows, files and failures are the pipeline's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from manifests.streams.specs import TeacherSpec


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of one clip by one teacher."""

    frames: dict[str, np.ndarray]
    """Stream name -> frames_TD, float32, T >= 1."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON-serialisable extras for people: a transcript with word times, notes."""


class Teacher(Protocol):
    """An expert, as the pipeline sees it. Constructed cheaply: `Teacher(name, settings)`.

    Two attributes are optional. `overlaps = True` says that `extract` may run in two threads at
    once and itself takes `teachers.toolkit.device.turn` for its network; without it, a worker gives
    one thread the device for the whole call. `budget`, a `teachers.toolkit.batching.BatchBudget`,
    is the padded audio per forward pass, which a build with `--batch-seconds auto` searches for.
    """

    def spec(self) -> TeacherSpec:
        """Describes this version; reads weight files to digest them, loads no model."""
        ...

    def load(self, *, device: str, num_threads: int) -> None:
        """Loads the model onto `device` ("cpu", "cuda"), keeping to `num_threads` CPU threads."""
        ...

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """Targets for each waveform (float32, mono, [-1, 1], at the spec's sample rate).

        The result for a clip must not depend on its neighbours in the batch beyond rounding.
        """
        ...


@runtime_checkable
class TextTeacher(Protocol):
    """A teacher that can use what is said in a clip, where the corpus knows it."""

    def extract_with_texts(
        self, waves: Sequence[np.ndarray], texts: Sequence[str | None]
    ) -> list[Targets]:
        """The same as `Teacher.extract`, with the text of each clip; None where it is unknown."""
        ...


def extract_targets(
    teacher: Teacher, waves: Sequence[np.ndarray], texts: Sequence[str | None] = ()
) -> list[Targets]:
    """The targets of a batch, by the texts too where the teacher can use them.

    Args:
        teacher: Loaded.
        waves: Waveforms as `Teacher.extract` takes them.
        texts: Text of each clip; empty if nothing is known of any.
    """
    if isinstance(teacher, TextTeacher):
        return list(teacher.extract_with_texts(waves, texts or [None] * len(waves)))
    return list(teacher.extract(waves))
