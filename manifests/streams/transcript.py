"""The words and notes that teachers write in addition to frames: the `metadata` of a row.

On disk, words and notes are JSON lists. Both are named tuples, which are written as lists and whose
fields are read by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple


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
class Confidence:
    """A decoder's own confidence in the words that it wrote for a clip.

    A decoder writes words for any sound: for barks, or for languages that it does not know. These
    numbers identify such words by the rules published with Whisper.
    """

    no_speech_probability: float
    average_log_probability: float
    """Mean over the tokens, in nats."""
    compression_ratio: float
    """Length of the text divided by its zlib-compressed length; texts above 2.4 are repetitive."""
    detected_language: str = ""
    """Language that the decoder detected; empty for models of a single language."""

    MAX_NO_SPEECH: ClassVar[float] = 0.6
    MIN_LOG_PROBABILITY: ClassVar[float] = -1.0
    MAX_COMPRESSION: ClassVar[float] = 2.4

    def doubts(self, language: str) -> str:
        """The reason why the words should be left out; empty if there is none.

        Args:
            language: Language in which the words are written.
        """
        if self.no_speech_probability > self.MAX_NO_SPEECH:
            return f"no speech, by {self.no_speech_probability:.0%}"
        if self.average_log_probability < self.MIN_LOG_PROBABILITY:
            return f"unlikely words, {self.average_log_probability:.2f} nats a token"
        if self.compression_ratio > self.MAX_COMPRESSION:
            return f"words repeat themselves, compressed {self.compression_ratio:.1f} times"
        if self.detected_language and language and self.detected_language != language:
            return f"written as {language}, but detected as {self.detected_language}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """The text, words and notes that a teacher writes for one clip; None for missing ones."""

    text: str | None = None
    language: str = ""
    words: tuple[Word, ...] | None = None
    confidence: Confidence | None = None
    """None if the teacher states none, and in caches written before the field existed."""
    notes: tuple[Note, ...] | None = None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Transcript:
        """Builds a transcript from a row's metadata, which may have other fields as well."""
        words, notes = metadata.get("words"), metadata.get("notes")
        doubts = metadata.get("confidence")
        return cls(
            text=metadata.get("text"),
            language=metadata.get("language") or "",
            words=None if words is None else tuple(Word(*word) for word in words),
            confidence=None if doubts is None else Confidence(**doubts),
            notes=None if notes is None else tuple(Note(*note) for note in notes),
        )

    @property
    def doubts(self) -> str:
        """The reason why a reader should leave the words out; empty if there is none."""
        return self.confidence.doubts(self.language) if self.confidence and self.text else ""

    def before(self, seconds: float) -> Transcript:
        """Keeps only the words and notes that begin before a time."""
        return Transcript(
            text=self.text,
            language=self.language,
            confidence=self.confidence,
            words=self.words and tuple(word for word in self.words if word.start_s < seconds),
            notes=self.notes and tuple(note for note in self.notes if note.start_s < seconds),
        )
