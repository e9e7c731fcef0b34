"""Tests for greedy and forced CTC paths, against all possible paths, and for their words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from teachers.toolkit.ctc_paths import Emission, Vocabulary, align, best_path, spell, timed

CHARACTERS = Vocabulary(["<pad>", "|", *"ABCDE"], blank=0)
PIECES = Vocabulary(["<unk>", "\u2581a", "\u2581bc", "d", "<pad>"], blank=4)
PHONES = Vocabulary(["<pad>", "a:", "b", "tʃ"], blank=0)


def peaks(tokens_T: list[int], size: int) -> np.ndarray:
    """Returns posteriors with probability near 1 for one token per frame."""
    return np.eye(size)[tokens_T] * 0.9 + 0.1 / size


def collapse(path: tuple[int, ...], blank: int) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token != blank]


@pytest.mark.parametrize("seed", range(20))
def test_align_returns_the_best_of_all_paths(seed: int):
    rng = np.random.default_rng(seed)
    posteriors_TV = rng.dirichlet(np.full(4, 0.5), size=6)
    tokens = rng.integers(1, 4, size=rng.integers(1, 4)).tolist()
    scores = {
        path: np.log(posteriors_TV[np.arange(6), path] + 1e-12).sum()
        for path in itertools.product(range(4), repeat=6)
        if collapse(path, 0) == tokens
    }
    emissions = align(posteriors_TV, tokens, 0)
    assert emissions is not None
    path = np.zeros(6, int)
    for emission in emissions:
        path[emission.first : emission.end] = emission.token
    assert [emission.token for emission in emissions] == tokens
    assert np.log(posteriors_TV[np.arange(6), path] + 1e-12).sum() == pytest.approx(
        max(scores.values())
    )


def test_align_returns_none_for_a_text_that_is_too_long():
    posteriors_TV = np.full((4, 3), 1 / 3)
    assert align(posteriors_TV, [1, 2, 1, 2], 0) is not None
    # A repeated token needs a blank in between.
    assert align(posteriors_TV, [1, 1, 2, 1], 0) is None
    assert align(posteriors_TV, [], 0) == []


def test_align_returns_none_beyond_the_memory_limit(monkeypatch):
    posteriors_TV = np.full((10, 3), 1 / 3)
    monkeypatch.setattr("teachers.toolkit.ctc_paths.MOST_CELLS", 30)
    assert align(posteriors_TV, [1], 0) is not None
    assert align(posteriors_TV, [1, 2], 0) is None


def test_greedy_words_have_the_times_of_their_peaks():
    path = [0, 0, 2, 2, 0, 3, 1, 1, 0, 4, 4, 0, 4, 0]
    emissions = best_path(peaks(path, 7), 0)
    assert emissions[0] == Emission(2, 2, 4)
    words = CHARACTERS.words(emissions, start_s=0.01, hop_s=0.02)
    assert words == [("AB", 0.04, 0.12), ("CC", 0.18, 0.26)]


def test_word_pieces_and_phones_become_words():
    path = [1, 3, 4, 2, 2, 3, 0, 3]
    words = PIECES.words(best_path(peaks(path, 5), 4), start_s=0.0, hop_s=0.08)
    # The first frame is centred at 0 s, so times are clipped at the start of the clip.
    assert words == [("ad", 0.0, 0.12), ("bcdd", 0.2, 0.6)]
    spoken = PHONES.words(best_path(peaks([0, 1, 0, 3, 3, 2], 4), 0), start_s=0.01, hop_s=0.02)
    assert [word.text for word in spoken] == ["a:", "tʃ", "b"]


def test_known_text_keeps_its_spelling_and_gets_times():
    path = [0, 2, 0, 3, 1, 0, 0, 4, 5, 0, 0]
    spelled = spell("Ab, 42 cd!", CHARACTERS, lambda word: [])
    assert spelled.words == ["Ab,", "42", "cd!"]
    assert spelled.tokens == [[2, 3], [], [4, 5]]
    alignment = spelled.align(peaks(path, 7), 0)
    assert alignment is not None
    assert alignment.score > 0.9
    words = timed(spelled.words, alignment.spans, start_s=0.01, hop_s=0.02)
    assert words == [("Ab,", 0.02, 0.08), ("42", 0.08, 0.14), ("cd!", 0.14, 0.18)]


def test_wrong_text_has_a_low_score():
    posteriors_TV = peaks([0, 2, 0, 3, 0, 0], 7)
    right, wrong = (
        spell(text, CHARACTERS, lambda word: []).align(posteriors_TV, 0) for text in ("ab", "dc")
    )
    assert right is not None
    assert wrong is not None
    assert right.score > 0.9 > 0.1 > wrong.score
