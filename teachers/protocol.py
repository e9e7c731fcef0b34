"""The interface between the pipeline and an expert.

A teacher owns its model: it describes itself without loading anything, loads once per worker, and
converts a batch of waveforms to targets. The pipeline handles rows, files and failures.
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
    """JSON-serialisable additions: a transcript with word times, notes."""


class Teacher(Protocol):
    """The interface of an expert. The constructor, `Teacher(name, settings)`, must be cheap.

    Two attributes are optional. `overlaps = True` states that `extract` may run in two threads in
    parallel and acquires `teachers.toolkit.device.turn` for its network; otherwise a worker gives
    one thread the device for the whole call. `budget`, a `teachers.toolkit.batching.BatchBudget`,
    is the padded audio per forward pass, which a build with `--batch-seconds auto` searches for.
    """

    def spec(self) -> TeacherSpec:
        """Describes this version. Reads weight files to compute digests, but loads no model."""
        ...

    def load(self, *, device: str, num_threads: int) -> None:
        """Loads the model onto `device` ("cpu", "cuda"), using `num_threads` CPU threads."""
        ...

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """Targets for each waveform (float32, mono, [-1, 1], at the spec's sample rate).

        The result for a clip must not depend on its neighbours in the batch beyond rounding.
        """
        ...


@runtime_checkable
class TextTeacher(Protocol):
    """A teacher that can use the text of a clip, if the corpus has it."""

    def extract_with_texts(
        self, waves: Sequence[np.ndarray], texts: Sequence[str | None]
    ) -> list[Targets]:
        """The same as `Teacher.extract`, with the text of each clip; None where it is unknown."""
        ...


def extract_targets(
    teacher: Teacher, waves: Sequence[np.ndarray], texts: Sequence[str | None] = ()
) -> list[Targets]:
    """Computes the targets of a batch, passing the texts if the teacher can use them.

    Args:
        teacher: The loaded teacher.
        waves: Waveforms, see `Teacher.extract`.
        texts: Text of each clip; empty if no text is known.
    """
    if isinstance(teacher, TextTeacher):
        return list(teacher.extract_with_texts(waves, texts or [None] * len(waves)))
    return list(teacher.extract(waves))
