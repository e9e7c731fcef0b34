"""Tests for text normalisation against unicodedata, with all marks, quotes and apostrophes."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from student.text import APOSTROPHES, HYPHENS, normalise, split_words

CHARS = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")
]
BY_CATEGORY = {char: unicodedata.category(char) for char in CHARS}


def caseless(text: str) -> str:
    """Returns Unicode's canonical caseless form (D145), composed."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFC", folded)


def is_variation_selector(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


def test_every_combining_mark_is_kept_with_its_letter() -> None:
    marks = [
        char
        for char, category in BY_CATEGORY.items()
        if category[0] == "M" and not is_variation_selector(char)
    ]
    assert len(marks) > 2000
    for mark in marks:
        assert normalise(f"x{mark}y") == caseless(f"x{mark}y"), hex(ord(mark))
        assert normalise(f"x{mark}y") != "xy", hex(ord(mark))


def test_every_letter_and_digit_is_kept() -> None:
    for char, category in BY_CATEGORY.items():
        if category[0] in "LN" and not APOSTROPHES & set(caseless(char)):
            assert normalise(char) == caseless(char), hex(ord(char))


def test_composed_and_decomposed_texts_are_equal() -> None:
    for char in CHARS:
        for form in ("NFC", "NFD"):
            assert normalise(f"a{unicodedata.normalize(form, char)}") == normalise(f"a{char}")


def test_normalise_returns_nfc_and_is_idempotent() -> None:
    for start in range(0, len(CHARS), 40):
        text = normalise(" ".join(CHARS[start : start + 40]))
        assert unicodedata.is_normalized("NFC", text)
        assert normalise(text) == text


def test_every_quote_and_bracket_around_a_word_is_removed() -> None:
    for char, category in BY_CATEGORY.items():
        if category in ("Pi", "Pf", "Ps", "Pe") or char in APOSTROPHES or char in '"＂„‚':
            assert normalise(f"{char}dog{char}") == "dog", hex(ord(char))


@pytest.mark.parametrize("apostrophe", sorted(APOSTROPHES))
def test_every_apostrophe_within_a_word_becomes_the_plain_one(apostrophe: str) -> None:
    assert normalise(f"don{apostrophe}t") == "don't"
    assert normalise(f"צ{apostrophe}ק") == "צ'ק"


@pytest.mark.parametrize("hyphen", sorted(HYPHENS))
def test_every_hyphen_within_a_word_becomes_the_plain_one(hyphen: str) -> None:
    assert normalise(f"hip{hyphen}hop") == "hip-hop"


def test_punctuation_and_symbols_alone_are_removed() -> None:
    for char, category in BY_CATEGORY.items():
        if category[0] in "PSZC":
            assert normalise(char) == "", hex(ord(char))
            if char not in "'’":
                assert normalise(f"one {char} two") == "one two", hex(ord(char))


def test_numbers_are_not_split_at_their_points() -> None:
    assert split_words("3.5, 1,000 and 10:30.") == ["3.5", "1,000", "and", "10:30"]
    assert split_words("−5 or -5") == ["-5", "or", "-5"]


def test_scripts_without_spaces_are_split_into_characters() -> None:
    assert split_words("今日は dogs です") == ["今", "日", "は", "dogs", "で", "す"]
    assert split_words("か\u3099") == ["が"]
    assert split_words("ฉันรัก แมว") == ["ฉันรัก", "แมว"]
