"""Cuts long recordings of a corpus into clips that fit into a student's window.

Clips of the new corpus refer to the same files with an offset and a duration: no audio is copied.
Cuts are made at the quietest place near the end of the longest allowed clip, or at fixed distances.
The text is cut with the audio if the times of its words are known; otherwise a clip that was cut
has no text, because the words cannot be assigned to its parts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from manifests import audio
from manifests.audio_address import split_address
from manifests.clips import LISTED, Clip, describe_ids
from manifests.corpus.source_index import SourceIndex, number_key
from manifests.errors import AudioError, UserError
from manifests.storage import identity

log = logging.getLogger(__name__)

FRAME_S = 0.02
"""Length of a frame whose loudness is measured."""
SMOOTH_FRAMES = 15
"""Frames over which loudness is averaged: a pause between words lasts 0.3 s or more."""
SEARCHED = 0.5
"""Share at the end of the longest allowed clip that is searched for the quietest place."""
DECODE_S = 600.0
"""Seconds of a recording that are decoded at a time."""
TOLERANCE_S = 1.0
"""Seconds by which a word may end behind its clip."""
WORD_KEYS = ("words", "word_times")
"""Labels that hold words with their times."""

Word = tuple[str, float, float]
"""A word, with its start and end in seconds from the clip's start."""


def segment(
    clips: Iterator[Clip],
    index: SourceIndex,
    *,
    max_seconds: float,
    by: Literal["silence", "fixed"],
) -> Iterator[Clip]:
    """Yields clips of at most `max_seconds`; shorter clips are not changed.

    Clips of unknown length that cannot be decoded are not changed either; a warning counts them,
    and a build of a cache records the reason.

    Args:
        clips: Clips of any length.
        index: Edges of parts that were found before, and those found now.
        max_seconds: Length of the longest part.
        by: Where clips are cut.

    Raises:
        UserError: the words of a clip have no times.
    """
    unreadable = 0
    first_ids: list[str] = []
    for clip in clips:
        if clip.duration is not None and clip.duration <= max_seconds:
            yield clip
            continue
        try:
            edges = _known_edges(clip, index, max_seconds, by)
        except AudioError as error:
            if not unreadable:
                log.warning("clip %s cannot be read and is kept whole: %s", clip.clip_id, error)
            unreadable += 1
            if len(first_ids) < LISTED:
                first_ids.append(clip.clip_id)
            yield clip
            continue
        if len(edges) == 2:
            yield clip
        else:
            yield from _cut(clip, edges)
    if unreadable > 1:
        names = describe_ids(first_ids, unreadable)
        log.warning("%d clips cannot be read and are kept whole: %s", unreadable, names)


def _known_edges(clip: Clip, index: SourceIndex, max_seconds: float, by: str) -> Sequence[float]:
    """Returns the edges of a clip's parts from the index, or finds and stores them.

    Raises:
        AudioError: the clip is of unknown length and cannot be decoded.
    """
    state = identity(split_address(clip.uri)[0])
    if state is None:
        return _edges(clip, max_seconds, by)
    settings = (clip.offset, clip.duration, max_seconds, by)
    key = number_key("edges", clip.uri, state, *settings)
    edges = index.numbers(key)
    if edges is None:
        edges = _edges(clip, max_seconds, by)
        index.add_numbers(key, edges)
    return edges


def _edges(clip: Clip, max_seconds: float, by: str) -> list[float]:
    """Returns the start of each part and the end of the last, in seconds of the clip."""
    seconds = _measure(clip) if clip.duration is None else clip.duration
    if seconds <= max_seconds:
        return [0.0, seconds]
    return [0.0, *_places(clip, seconds, max_seconds, by), seconds]


def _measure(clip: Clip) -> float:
    """Measures the length of a clip by decoding it."""
    start = 0.0
    while True:
        try:
            wave = audio.decode(_stretch(clip, start, DECODE_S))
        except AudioError as error:
            if error.reason == "beyond-end" and start:
                return start
            raise
        if wave.seconds < DECODE_S - FRAME_S:
            return start + wave.seconds
        start += DECODE_S


def _places(clip: Clip, seconds: float, max_seconds: float, by: str) -> list[float]:
    """Seconds from the clip's start at which it is cut."""
    if by == "fixed":
        return [max_seconds * n for n in range(1, int(np.ceil(seconds / max_seconds - 1e-9)))]
    loudness = _loudness(clip, seconds)
    places, start = [], 0.0
    while seconds - start > max_seconds:
        first = int((start + SEARCHED * max_seconds) / FRAME_S)
        last = min(int((start + max_seconds) / FRAME_S), len(loudness))
        if last - first < 1:
            start += max_seconds
        else:
            window = loudness[first:last]
            # Of equally quiet places, the last is used, which gives fewer and longer clips.
            start = (first + len(window) - int(window[::-1].argmin()) - 0.5) * FRAME_S
        places.append(round(start, 3))
    return places


def _loudness(clip: Clip, seconds: float) -> np.ndarray:
    """Computes the smoothed mean square of each frame."""
    powers = []
    start = 0.0
    while start < seconds:
        length = min(DECODE_S, seconds - start)
        try:
            wave = audio.decode(_stretch(clip, start, length))
        except AudioError:
            break
        size = round(wave.sample_rate * FRAME_S)
        count = len(wave.samples) // size
        frames_NS = wave.samples[: count * size].reshape(count, size)
        powers.append((frames_NS**2).mean(1))
        start += DECODE_S
    power = np.concatenate([np.empty(0, np.float32), *powers])
    if len(power) < SMOOTH_FRAMES:
        return power
    return np.convolve(power, np.full(SMOOTH_FRAMES, 1 / SMOOTH_FRAMES), "same")


def _stretch(clip: Clip, start: float, seconds: float) -> Clip:
    return Clip(clip_id=clip.clip_id, uri=clip.uri, offset=clip.offset + start, duration=seconds)


def _cut(clip: Clip, edges: Sequence[float]) -> Iterator[Clip]:
    words = _words(clip.labels)
    if words and (last := max(word[2] for word in words)) > edges[-1] + TOLERANCE_S:
        log.warning(
            "clip %s ends at %.2f s, but has a word that ends at %.2f s: its parts get no text; "
            "the times of words must count from the start of the clip",
            clip.clip_id, edges[-1], last,
        )  # fmt: skip
        words = None
    for number, (start, end) in enumerate(pairwise(edges)):
        own = [word for word in words or () if start <= (word[1] + word[2]) / 2 < end]
        labels = {key: value for key, value in clip.labels.items() if not _has_times(key, value)}
        labels["segment_of"] = clip.clip_id
        if words is not None:
            shifted = [[text, round(a - start, 3), round(b - start, 3)] for text, a, b in own]
            labels["words"] = shifted
        yield Clip(
            clip_id=f"{clip.clip_id}#{number:04d}",
            uri=clip.uri,
            offset=round(clip.offset + start, 6),
            duration=round(end - start, 6),
            text=None if words is None else " ".join(word[0] for word in own) or None,
            labels=labels,
        )


def _has_times(key: str, value: Any) -> bool:
    """Whether a label contains times within the whole clip, which its parts do not keep."""
    return key in WORD_KEYS or key == "supervisions"


def _words(labels: Mapping[str, Any]) -> list[Word] | None:
    """Returns the words of a clip with their times; None if they are unknown.

    They come from the label `words`, a list of [word, start, end] or of objects with the keys word
    (or text), start and end; or from the word alignments of lhotse's supervisions, which state
    durations.
    """
    for key in WORD_KEYS:
        if isinstance(labels.get(key), list):
            return [_word(item) for item in labels[key]]
    supervisions = labels.get("supervisions")
    if not isinstance(supervisions, list):
        return None
    words: list[Word] = []
    for each in supervisions:
        aligned = (each.get("alignment") or {}).get("word")
        if each.get("text") and not aligned:
            return None
        words += [(w[0], float(w[1]), float(w[1]) + float(w[2])) for w in aligned or ()]
    return words


def _word(item: Any) -> Word:
    try:
        if isinstance(item, Mapping):
            return str(item.get("word", item.get("text"))), float(item["start"]), float(item["end"])
        return str(item[0]), float(item[1]), float(item[2])
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(
            f"the label words holds {item!r}, expected [word, start, end] with seconds"
        ) from None
