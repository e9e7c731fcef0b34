"""Tests for `Transcript`: round trip through metadata, and words that a reader should leave out."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from manifests.streams.transcript import Confidence, Transcript, Word

HIGH_CONFIDENCE = Confidence(
    no_speech_probability=0.02,
    average_log_probability=-0.3,
    compression_ratio=1.1,
)


@pytest.mark.parametrize(
    ("confidence", "doubt"),
    [
        (HIGH_CONFIDENCE, ""),
        (replace(HIGH_CONFIDENCE, no_speech_probability=0.7), "no speech, by 70%"),
        (
            replace(HIGH_CONFIDENCE, average_log_probability=-1.5),
            "unlikely words, -1.50 nats a token",
        ),
        (
            replace(HIGH_CONFIDENCE, compression_ratio=3.0),
            "words repeat themselves, compressed 3.0 times",
        ),
        (replace(HIGH_CONFIDENCE, detected_language="fr"), "written as en, but detected as fr"),
        (replace(HIGH_CONFIDENCE, detected_language="en"), ""),
        (None, ""),
    ],
)
def test_doubts_describe_low_confidence(confidence: Confidence | None, doubt: str) -> None:
    metadata = {"text": "hello", "words": [Word("hello", 0.0, 0.5)], "language": "en"}
    if confidence is not None:
        metadata["confidence"] = asdict(confidence)
    read = Transcript.from_metadata(json.loads(json.dumps(metadata)))
    assert read.confidence == confidence
    assert read.doubts == read.before(0.2).doubts == doubt
    assert replace(read, text="").doubts == "", "there are no words to leave out"
