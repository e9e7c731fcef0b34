"""The words and notes that teachers write beside their frames: the `metadata` of a row.

On disk a word and a note are JSON lists, so both are named tuples: they are written as lists, and
code reads their fields by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Word(NamedTuple):
    """One word of a transcript."""

    text: str
    start_s: float
    end_s: float


class Note(NamedTuple):
    """One note of a transcription."""

    start_s: float
    end_s: float
    midi: int
    """Key, 69 for A4 (440 Hz)."""
    strength: float = 1.0
    """Mean posterior while it sounds, in [0, 1]."""

    @property
    def hertz(self) -> float:
        """Frequency of the key in equal temperament."""
        return 440.0 * 2.0 ** ((self.midi - 69) / 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """All that a teacher writes about one clip; None where it writes nothing of the sort."""

    text: str | None = None
    language: str = ""
    words: tuple[Word, ...] | None = None
    notes: tuple[Note, ...] | None = None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Transcript:
        """Builds a transcript from a row's metadata, which may have other fields as well."""
        words, notes = metadata.get("words"), metadata.get("notes")
        return cls(
            text=metadata.get("text"),
            language=metadata.get("language") or "",
            words=None if words is None else tuple(Word(*word) for word in words),
            notes=None if notes is None else tuple(Note(*note) for note in notes),
        )

    def before(self, seconds: float) -> Transcript:
        """Only the words and notes that begin before a moment."""
        return Transcript(
            text=self.text,
            language=self.language,
            words=self.words and tuple(word for word in self.words if word.start_s < seconds),
            notes=self.notes and tuple(note for note in self.notes if note.start_s < seconds),
        )
