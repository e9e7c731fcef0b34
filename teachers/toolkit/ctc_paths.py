"""Finds paths through a CTC model's posteriors: the best path, and the path of a known text.

In CTC (Graves et al., ICML 2006), a path may repeat a token over frames and has blanks between
tokens. A token's time is the range of frames in which the path stays on it. Models emit tokens in
short peaks, so a word lasts from its first peak to the end of its last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from manifests.streams.transcript import Word

# Legend: T frames, V tokens, N tokens of a text, S states of an alignment.

WORD_GAP = "|"
PIECE_START = "\u2581"
"""SentencePiece's mark of the first piece of a word."""

MOST_CELLS = 400_000_000
"""Maximum of frames times states in an alignment, one byte each: about eight minutes of speech at
50 frames per second and one character per token."""


@dataclass(frozen=True, slots=True)
class Emission:
    """One token of a path and its frames."""

    token: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A CTC model's tokens, and how they form words."""

    names: Sequence[str]
    blank: int

    def is_spoken(self, token: int) -> bool:
        """Whether a token is neither the blank nor a special one such as <unk>."""
        return token != self.blank and not self.names[token].startswith("<")

    @property
    def is_characters(self) -> bool:
        """Whether the tokens are characters with a word separator."""
        ordinary = [name for name in self.names if name and name[0] != "<"]
        return WORD_GAP in self.names and all(len(name) == 1 for name in ordinary)

    @property
    def is_pieces(self) -> bool:
        """Whether the tokens are pieces of words (SentencePiece)."""
        return any(name.startswith(PIECE_START) for name in self.names)

    def words(self, emissions: Sequence[Emission], *, start_s: float, hop_s: float) -> list[Word]:
        """Returns the words of a path with their times; each phone of a phone model is a word.

        Args:
            emissions: The path.
            start_s: Middle of frame 0, in seconds.
            hop_s: Seconds per frame.
        """
        groups: list[list[Emission]] = [[]]
        for emission in emissions:
            name = self.names[emission.token]
            if not self.is_spoken(emission.token):
                continue
            if name == WORD_GAP:
                groups.append([])
                continue
            if not self.is_characters and (not self.is_pieces or name.startswith(PIECE_START)):
                groups.append([])
            groups[-1].append(emission)
        words = []
        for group in groups:
            text = "".join(self.names[emission.token] for emission in group)
            if text := text.replace(PIECE_START, ""):
                begin = max(0.0, start_s + (group[0].first - 0.5) * hop_s)
                end = start_s + (group[-1].end - 0.5) * hop_s
                words.append(Word(text, round(begin, 3), round(max(begin, end), 3)))
        return words


def best_path(posteriors_TV: np.ndarray, blank: int) -> list[Emission]:
    """Returns the tokens of the most likely path (greedy decoding), without blanks and repeats."""
    emissions, first = [], 0
    for token, frames in groupby(posteriors_TV.argmax(1).tolist()):
        end = first + sum(1 for _ in frames)
        if token != blank:
            emissions.append(Emission(token, first, end))
        first = end
    return emissions


def align(posteriors_TV: np.ndarray, tokens: Sequence[int], blank: int) -> list[Emission] | None:
    """Returns the most likely path that spells `tokens`; None if there are too few or too many
    frames.

    Viterbi over the tokens with a blank before, between and after them: a path stays in its state,
    moves to the next, or skips the blank between two different tokens. Each frame takes a few numpy
    operations over S states.
    """
    if not tokens:
        return []
    states_S = np.full(2 * len(tokens) + 1, blank)
    states_S[1::2] = tokens
    if len(posteriors_TV) * len(states_S) > MOST_CELLS:
        return None
    log_TV = np.log(posteriors_TV + 1e-12)
    may_leap_S = np.zeros(len(states_S), bool)
    may_leap_S[3::2] = states_S[3::2] != states_S[1:-2:2]
    score_S = np.full(len(states_S), -np.inf)
    score_S[:2] = log_TV[0, states_S[:2]]
    back_TS = np.zeros((len(log_TV), len(states_S)), np.int8)
    reached_MS = np.full((3, len(states_S)), -np.inf)
    for frame in range(1, len(log_TV)):
        reached_MS[0] = score_S
        reached_MS[1, 1:] = score_S[:-1]
        reached_MS[2, 2:] = np.where(may_leap_S[2:], score_S[:-2], -np.inf)
        back_TS[frame] = reached_MS.argmax(0)
        score_S = reached_MS.max(0) + log_TV[frame, states_S]
    state = len(states_S) - 1 - int(score_S[-2] > score_S[-1])
    if not np.isfinite(score_S[state]):
        return None
    path_T = np.empty(len(log_TV), np.intp)
    for frame in range(len(log_TV) - 1, -1, -1):
        path_T[frame] = state
        state -= back_TS[frame, state]
    firsts = np.searchsorted(path_T, np.arange(1, len(states_S), 2), "left")
    ends = np.searchsorted(path_T, np.arange(1, len(states_S), 2), "right")
    return [
        Emission(token, int(first), int(end))
        for token, first, end in zip(tokens, firsts, ends, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Alignment:
    """Times of the words of a known text."""

    spans: Sequence[tuple[int, int] | None]
    """First frame and end of each word; None for a word that the vocabulary cannot spell."""
    score: float
    """Geometric mean of the tokens' highest posteriors in their frames, in [0, 1]: low if the text
    does not match the audio."""


@dataclass(frozen=True, slots=True)
class SpelledText:
    """A known text in the tokens of a CTC model."""

    words: Sequence[str]
    """The words as written in the text."""
    tokens: Sequence[Sequence[int]]
    """Tokens of each word; empty for a word that the vocabulary cannot spell, such as a number."""
    gap: int | None
    """The token between words, if the vocabulary has one."""

    def align(self, posteriors_TV: np.ndarray, blank: int) -> Alignment | None:
        """Aligns the words; None if the clip is too short for the text."""
        sequence: list[int] = []
        spans: list[slice] = []
        for tokens in self.tokens:
            if sequence and tokens and self.gap is not None:
                sequence.append(self.gap)
            spans.append(slice(len(sequence), len(sequence) + len(tokens)))
            sequence += tokens
        path = align(posteriors_TV, sequence, blank)
        if path is None:
            return None
        peaks = [posteriors_TV[each.first : each.end, each.token].max() for each in path]
        words = [path[span] for span in spans]
        return Alignment(
            [(word[0].first, word[-1].end) if word else None for word in words],
            float(np.exp(np.log(np.array(peaks) + 1e-12).mean())) if peaks else 0.0,
        )


def spell(text: str, vocabulary: Vocabulary, pieces: Callable[[str], Sequence[int]]) -> SpelledText:
    """Converts a text to a vocabulary's tokens.

    Letters are converted to the vocabulary's case; characters that it lacks (punctuation, digits)
    are omitted.

    Args:
        text: Text of the clip.
        vocabulary: Vocabulary of characters or of pieces.
        pieces: A word -> its pieces; not called for a vocabulary of characters.
    """
    index = {name: column for column, name in enumerate(vocabulary.names)}
    letters = set("".join(name for name in vocabulary.names if not name.startswith("<")))
    words, tokens = text.split(), []
    for word in words:
        kept = "".join(
            next((each for each in (letter, letter.lower(), letter.upper()) if each in letters), "")
            for letter in word
        )
        spelled = [index[letter] for letter in kept] if vocabulary.is_characters else pieces(kept)
        tokens.append([token for token in spelled if vocabulary.is_spoken(token)] if kept else [])
    return SpelledText(words, tokens, index.get(WORD_GAP) if vocabulary.is_characters else None)


def timed(
    words: Sequence[str], spans: Sequence[tuple[int, int] | None], *, start_s: float, hop_s: float
) -> list[Word]:
    """Words of a known text with their times; a word without a span fills its gap.

    Args:
        words: Words as written in the text.
        spans: First frame and end of each.
        start_s: Middle of frame 0, in seconds.
        hop_s: Seconds per frame.
    """
    times = [
        (max(0.0, start_s + (span[0] - 0.5) * hop_s), start_s + (span[1] - 0.5) * hop_s)
        if span
        else None
        for span in spans
    ]
    timed_words: list[Word] = []
    for row, (word, time) in enumerate(zip(words, times, strict=True)):
        if time is None:
            before = timed_words[-1].end_s if timed_words else 0.0
            after = next((later[0] for later in times[row:] if later), before)
            time = (before, max(before, after))
        timed_words.append(Word(word, round(time[0], 3), round(time[1], 3)))
    return timed_words
