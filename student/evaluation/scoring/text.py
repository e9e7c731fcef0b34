"""Normalises texts for comparison: removes case, punctuation and Unicode variants, but keeps words
whole.

Combining marks are parts of words (Devanagari vowel signs, Thai tones). Canonically equivalent
texts are equal: the comparison is Unicode's canonical caseless matching (D145), with results in
NFC. Typographic apostrophes and hyphens inside words become plain ones; quotes, brackets, dashes
between words, note signs and invisible characters are not words.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

APOSTROPHES = frozenset("'’‘‛ʼ′＇`´׳")
"""Apostrophes that keyboards, phones and word processors write inside words."""
HYPHENS = frozenset("-‐‑﹣－֊")
"""Only hyphens; longer dashes separate words."""
MINUS = "−"
SHARP, FLAT = "♯", "♭"
INNER_OF_NUMBERS = frozenset(".,:")
"""Kept between digits, so that 3.5 is not 3 and 5."""
CLAUSE_ENDS = frozenset(".,;:!?…。，、；：！？।॥؟،؛—–\n")
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_SYLLABARIES = _UNSPACED[4:]


@dataclass(frozen=True, slots=True)
class Token:
    """One word."""

    text: str
    """The normalised word."""
    raw: str
    """The word as written, in NFC."""
    starts_clause: bool
    """Whether it follows punctuation or is the first word."""


def normalise(text: str) -> str:
    """Normalised words, separated by single spaces."""
    return " ".join(token.text for token in tokenise(text))


def split_words(text: str) -> list[str]:
    """Splits a text into the words by which transcriptions are scored.

    Chinese and Japanese characters count individually, as in the mixed error rate, because these
    scripts have no spaces; Thai, Lao, Khmer and Burmese are split only at spaces.
    """
    words: list[str] = []
    for token in tokenise(text):
        run = ""
        for char in token.text:
            if not _within(char, _SYLLABARIES):
                run += char
            elif unicodedata.category(char)[0] == "M" and words and not run:
                words[-1] += char
            else:
                words += [run, char] if run else [char]
                run = ""
        words += [run] if run else []
    return words


def is_unspaced(char: str) -> bool:
    """Whether a character's script has no spaces between words."""
    return _within(char, _UNSPACED)


def is_mark(char: str) -> bool:
    """Whether a character is a combining mark."""
    return unicodedata.category(char).startswith("M")


def tokenise(text: str) -> list[Token]:
    """Splits a text into words, in order."""
    composed = unicodedata.normalize("NFC", text)
    chars = [char for char in composed if not is_invisible(char)]
    tokens: list[Token] = []
    raw = kept = ""
    new_clause = starts_clause = True
    for place, char in enumerate([*chars, " "]):
        before = chars[place - 1] if place else " "
        after = chars[place + 1] if place + 1 < len(chars) else " "
        written = _kept_form(char, before, after, kept)
        if written:
            if not raw:
                starts_clause = new_clause
            raw, kept = raw + char, kept + written
            continue
        if raw:
            if folded := _folded(kept):
                tokens.append(Token(folded, raw, starts_clause))
            new_clause = _is_quote(char)
            raw = kept = ""
        if char in CLAUSE_ENDS or (char in HYPHENS and after.isspace()):
            new_clause = True
    return tokens


def _kept_form(char: str, before: str, after: str, kept: str) -> str:
    """Replacement for a character of a word; nothing if it separates words."""
    category = unicodedata.category(char)
    if category[0] in "LN" and char not in APOSTROPHES:
        return char
    if category[0] == "M":
        return char if kept or before.isspace() else ""
    follows_word = bool(kept) and (_is_wordlike(before) or before in "#+")
    if char in APOSTROPHES:
        return "'" if follows_word and _is_wordlike(after) else ""
    if char in HYPHENS and follows_word:
        return "-" if _is_wordlike(after) else ""
    if char in HYPHENS or char in (MINUS, "+"):
        sign = not kept and after.isdigit()
        raised = char == "+" and follows_word
        return ("+" if char == "+" else "-") if sign or raised else ""
    if char in ("#", SHARP):
        return "#" if follows_word else ""
    if char == FLAT:
        return "b" if follows_word else ""
    if char in INNER_OF_NUMBERS:
        return char if kept and before.isdigit() and after.isdigit() else ""
    return ""


def _is_wordlike(char: str) -> bool:
    return unicodedata.category(char)[0] in "LNM" and char not in APOSTROPHES


def _is_quote(char: str) -> bool:
    return unicodedata.category(char) in ("Pi", "Pf") or char in "\"'"


def is_invisible(char: str) -> bool:
    """Whether a character is a joiner, direction mark, soft hyphen or variation selector."""
    code = ord(char)
    return (
        unicodedata.category(char) == "Cf" or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
    )


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", decomposed.casefold()))
    return folded.replace("ʼ", "'").strip("'")


def _within(char: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(char) <= last for first, last in ranges)
