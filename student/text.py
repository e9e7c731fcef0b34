"""Normalises texts for comparison: removes case, punctuation and Unicode variants, but keeps words
whole.

Combining marks are parts of words (Devanagari vowel signs, Thai tones). Canonically equivalent
texts are equal: the comparison is Unicode's canonical caseless matching (D145), with results in
NFC. Typographic apostrophes and hyphens inside words become plain ones; quotes, brackets, dashes
between words, note signs and invisible characters are not words.
"""

from __future__ import annotations

import re
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
_PIECES = re.compile(r"[A-Za-z0-9]+|.", re.DOTALL)
"""Runs of plain letters and digits, which are always parts of words, and other characters."""


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


def answer_key(answer: str) -> str:
    """A key that is the same for equal answers; an answer without words is its own key."""
    return normalise(answer) or answer.strip()


def split_words(text: str) -> list[str]:
    """Splits a text into the words by which transcriptions are scored.

    Chinese and Japanese characters count individually, as in the mixed error rate, because these
    scripts have no spaces; Thai, Lao, Khmer and Burmese are split only at spaces.
    """
    words: list[str] = []
    for token in tokenise(text):
        if token.text.isascii():
            words.append(token.text)
            continue
        start = 0
        for place, char in enumerate(token.text):
            if not _within(char, _SYLLABARIES):
                continue
            is_mark_of_last = is_mark(char) and words and start == place
            words += [token.text[start:place]] if start < place else []
            if is_mark_of_last:
                words[-1] += char
            else:
                words.append(char)
            start = place + 1
        words += [token.text[start:]] if start < len(token.text) else []
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
    if not composed.isascii():
        invisible = dict.fromkeys(map(ord, filter(is_invisible, set(composed))))
        composed = composed.translate(invisible)
    composed += " "
    tokens: list[Token] = []
    start, kept = 0, []
    new_clause = starts_clause = True
    for match in _PIECES.finditer(composed):
        piece, place = match[0], match.start()
        if len(piece) > 1 or (piece.isascii() and piece.isalnum()):
            written = piece
        else:
            before = composed[place - 1] if place else " "
            after = composed[place + 1] if place + 1 < len(composed) else " "
            written = _kept_form(piece, before, after, bool(kept))
        if written:
            if not kept:
                start, starts_clause = place, new_clause
            kept.append(written)
            continue
        if kept:
            if folded := _folded("".join(kept)):
                tokens.append(Token(folded, composed[start:place], starts_clause))
            new_clause = _is_quote(piece)
            kept = []
        if piece in CLAUSE_ENDS or (piece in HYPHENS and composed[place + 1 : place + 2].isspace()):
            new_clause = True
    return tokens


def _kept_form(char: str, before: str, after: str, kept: bool) -> str:
    """Replacement for a character of a word; nothing if it separates words.

    Args:
        char: The character.
        before: The character before it.
        after: The character after it.
        kept: Whether the word has begun.
    """
    category = unicodedata.category(char)
    if category[0] in "LN" and char not in APOSTROPHES:
        return char
    if category[0] == "M":
        return char if kept or before.isspace() else ""
    follows_word = kept and (_is_wordlike(before) or before in "#+")
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
    if text.isascii():
        return text.lower().strip("'")
    decomposed = unicodedata.normalize("NFD", text)
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", decomposed.casefold()))
    return folded.replace("ʼ", "'").strip("'")


def _within(char: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(char) <= last for first, last in ranges)
