"""A task of the miniature: one question, its answers, and how they are scored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """One question, where its answer is, and how it is scored."""

    question: str
    label: str
    """`text` or a label of the clip."""
    kind: str = "label"
    choices: tuple[str, ...] = ()
