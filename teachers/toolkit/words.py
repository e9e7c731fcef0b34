"""Transcripts with word times, as the Whisper families write them in addition to frames."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from manifests.streams.transcript import Confidence, Word

# Legend: N tokens, T frames.


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderScores:
    """A decoder's scores of the words in one window."""

    no_speech_probability: float
    log_probability: float
    """Mean over the tokens, in nats."""
    num_tokens: int


def within(
    words: Sequence[Mapping[str, Any]], *, start: int, first: int, end: int, hop_s: float
) -> list[Word]:
    """The words of a window whose middle lies in the frames that it contributes.

    Args:
        words: The words of a window, with `word`, `start` and `end` in seconds from its start.
        start: First frame of the window, counted from the clip's start.
        first: First frame that this window contributes.
        end: End of the frames that it contributes.
        hop_s: Seconds per frame.
    """
    kept = []
    for word in words:
        begins, ends = word["start"] + start * hop_s, word["end"] + start * hop_s
        if first <= (begins + ends) / 2 / hop_s < end:
            kept.append(Word(word["word"], round(float(begins), 2), round(float(ends), 2)))
    return kept


def transcript(
    words: Sequence[Word], language: str, confidence: Confidence | None = None
) -> dict[str, Any]:
    """Builds a clip's metadata from the words of all its windows."""
    text = "".join(word.text for word in words).strip()
    timed = [word._replace(text=word.text.strip()) for word in _with_marks(words)]
    metadata = {"text": text, "words": timed, "language": language}
    return metadata if confidence is None else metadata | {"confidence": asdict(confidence)}


def _with_marks(words: Sequence[Word]) -> list[Word]:
    """Attaches punctuation marks, which decoders write as words, to the words beside them.

    As in Whisper's own word times, a mark after a space belongs to the next word, any other to the
    word before it, and the times stay those of the word.
    """
    joined: list[Word] = []
    opening = ""
    for word in words:
        if any(map(str.isalnum, word.text)):
            joined.append(word._replace(text=opening + word.text))
            opening = ""
        elif word.text.startswith(" ") or not joined:
            opening += word.text
        else:
            joined[-1] = joined[-1]._replace(text=joined[-1].text + opening + word.text)
            opening = ""
    if opening and joined:
        joined[-1] = joined[-1]._replace(text=joined[-1].text + opening)
    return joined


def build_confidence(
    windows: Sequence[DecoderScores], text: str, detected_language: str = ""
) -> Confidence | None:
    """Computes a clip's confidence: means over its windows, weighted by tokens; None if unknown.

    Args:
        windows: The scores of each window.
        text: The words of the clip.
        detected_language: See `Confidence`.
    """
    if not windows:
        return None
    weights = [max(scores.num_tokens, 1) for scores in windows]
    encoded = text.encode()
    return Confidence(
        no_speech_probability=round(
            float(np.average([each.no_speech_probability for each in windows], weights=weights)), 4
        ),
        average_log_probability=round(
            float(np.average([each.log_probability for each in windows], weights=weights)), 4
        ),
        compression_ratio=round(len(encoded) / len(zlib.compress(encoded)), 3) if encoded else 0.0,
        detected_language=detected_language,
    )


def warp(score_NT: np.ndarray) -> np.ndarray:
    """Returns each token's first frame on the best monotonic path through `score_NT` (DTW).

    Cells of one anti-diagonal depend only on the two before it, so each is one vector operation.
    """
    num_tokens, num_frames = score_NT.shape
    total = np.full((num_tokens + 1, num_frames + 1), -np.inf)
    total[0, 0] = 0.0
    back = np.zeros((num_tokens + 1, num_frames + 1), np.int8)
    for diagonal in range(2, num_tokens + num_frames + 1):
        rows = np.arange(max(1, diagonal - num_frames), min(num_tokens, diagonal - 1) + 1)
        columns = diagonal - rows
        before = np.stack([
            total[rows - 1, columns - 1], total[rows, columns - 1], total[rows - 1, columns]
        ])  # fmt: skip
        chosen = before.argmax(0)
        back[rows, columns] = chosen
        total[rows, columns] = (
            before[chosen, np.arange(len(rows))] + score_NT[rows - 1, columns - 1]
        )
    starts = np.zeros(num_tokens, np.intp)
    row, column = num_tokens, num_frames
    while row > 0:
        starts[row - 1] = column - 1
        step = back[row, column]
        row, column = row - (step != 1), column - (step != 2)
    return starts
