"""Tests for words and notes: their form on disk, and note F1 against mir_eval."""

from __future__ import annotations

import json

import mir_eval
import numpy as np
import pytest

from manifests.streams.notes import note_f1
from manifests.streams.transcript import Note, Transcript, Word


def random_notes(rng: np.random.Generator, count: int) -> list[Note]:
    starts = rng.uniform(0, 2, count).round(2)
    return [Note(float(s), float(s) + 0.3, int(rng.integers(60, 63)), 0.9) for s in starts]


@pytest.mark.parametrize("seed", range(30))
def test_note_f1_matches_mir_eval(seed: int):
    rng = np.random.default_rng(seed)
    reference, estimated = (random_notes(rng, int(rng.integers(1, 40))) for _ in range(2))
    expected = mir_eval.transcription.precision_recall_f1_overlap(
        np.array([note[:2] for note in reference]), np.array([note.hertz for note in reference]),
        np.array([note[:2] for note in estimated]), np.array([note.hertz for note in estimated]),
        offset_ratio=None,
    )[:3]  # fmt: skip
    assert tuple(note_f1(reference, estimated).values()) == pytest.approx(expected)


def test_note_f1_without_notes_is_zero_or_nan():
    some = [Note(0.0, 1.0, 60)]
    assert note_f1(some, [])["note_f1"] == note_f1([], some)["note_f1"] == 0.0
    assert np.isnan(note_f1([], [])["note_f1"])


def test_words_and_notes_are_stored_as_lists_and_read_as_types():
    metadata = {"text": "a", "words": [Word("a", 0.1, 0.4)], "notes": [Note(0.0, 1.0, 60, 0.5)]}
    written = json.loads(json.dumps(metadata))
    assert written == {"text": "a", "words": [["a", 0.1, 0.4]], "notes": [[0.0, 1.0, 60, 0.5]]}
    read = Transcript.from_metadata(written | {"language": "en"})
    assert read.words == (Word("a", 0.1, 0.4),)
    assert read.notes == (Note(0.0, 1.0, 60, 0.5),)
    assert (read.text, read.language) == ("a", "en")
    assert Transcript.from_metadata({}).words is None
    assert read.before(0.05).words == ()
