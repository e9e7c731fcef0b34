"""Tests for transcripts with word times: punctuation belongs to the words beside it."""

from __future__ import annotations

import pytest

from manifests.streams.transcript import Word
from teachers.toolkit.words import transcript


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([" Hello", ",", " world", "."], ["Hello,", "world."]),
        ([' "', "Yes", '"', ",", " he", " said", "..."], ['"Yes",', "he", "said..."]),
        ([" ¿", "Qué", "?"], ["¿Qué?"]),
        (["«", " Bonjour", " »", "."], ["« Bonjour »."]),
        ([" 100", " %"], ["100 %"]),
        ([" ♪"], []),
        ([], []),
    ],
)
def test_punctuation_is_attached_to_words(written: list[str], expected: list[str]) -> None:
    words = [Word(text, float(index), index + 0.5) for index, text in enumerate(written)]
    made = transcript(words, "en")
    assert made["text"] == "".join(written).strip()
    assert [word.text for word in made["words"]] == expected
    spoken = [word for word in words if any(map(str.isalnum, word.text))]
    assert [word.start_s for word in made["words"]] == [word.start_s for word in spoken]
    assert [word.end_s for word in made["words"]] == [word.end_s for word in spoken]
