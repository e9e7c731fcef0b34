"""A task of the miniature: one question, its answers, and their scoring."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """One question, the source of its answer, and its scoring."""

    question: str
    label: str
    """`text` or a label of the clip."""
    kind: str = "label"
    choices: tuple[str, ...] = ()
