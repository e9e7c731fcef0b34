"""Finds the labels that a reply names as whole words and does not negate.

`It is not a dog` does not name a dog, and `a note` is not the note A. Longer labels are matched
first, and matched text is not matched again, so that `C sharp` is not `C`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from student.text import Token, is_mark, is_unspaced, normalise, tokenise


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATIONS = _words(
    "not no never neither nor without cannot cant dont doesnt didnt isnt wasnt arent "
    "nicht kein keine keinen keinem keiner keines weder ohne niet geen inte ingen ikke "
    "ne pas aucun aucune ni sans non nessun nessuna né não nem sem nunca sin ningún ninguna "
    "не нет ни без nie ani bez değil ليس ليست لا לא אין"
)
"""Words that negate the rest of their clause."""
SHORT_NEGATIONS = _words("no sin sans sem without ohne bez без")
"""Words that negate only the next words."""
DENIED_BEFORE = frozenset(
    ["नहीं", "नही", "değil", "아닙니다", "아니다", "아니에요", "아니라", "아닌"]
)
"""Words that negate the text before them."""
CONTRASTS = _words(
    "but however though although rather instead it's its aber sondern mais plutôt pero sino "
    "ma bensì mas а но maar men ale"
)
"""Words that end the scope of an earlier negation."""
_NEGATING_CHARACTER = re.compile("[不没沒非无無]")
"""Part of every negation in scripts without spaces: `不是`, `没有`, `并非`."""
_JAPANESE_NEGATION = re.compile(r"(が|で?は|じゃ)?(な[いくし]|ありません|あらず)")
_KOREAN_PARTICLES = re.compile(r"(은|는|이|가|을|를|도|입니다|이다|예요|이에요|이야|야)(?=\s|$)")
_POSSESSIVE = re.compile(r"'s(?=\s|$)")
_ELISION = re.compile(r"(?:^|\s)\w{1,5}'$")
"""L'orage, dell'acqua, qu'un."""
_LONG, _SHORT = 6, 3
"""Words across which a negation still applies."""
PARTICLES = _words("yes no ja nein oui non si sí да нет sim não true false")
"""Labels that are also common words: they count only at the start of a clause."""
LIST_ENDS = _words("or nor oder ou o или")
LIST_WORDS = LIST_ENDS | _words("a an the any ein eine einen un une una uno")
"""Words between the labels of one list."""
STATEMENT_VALUES = frozenset(["true", "false"])
"""Labels that can also be the value of a statement: `It is false`."""
COPULAS = _words("is are was it's that's")
WRONG = _words("wrong incorrect false excluded")
_IDLE_AFTER_NO = frozenset(
    ["idea", "way", "clue", "one", "doubt", "problem", "answer", "information", "wonder", "matter"]
)
LIKE_WORDS = _words("a i e o u y à é è и я а в о у с к")
"""Letters that are also words."""
LETTER_FOLLOWERS = _words(
    "because since as due based or and und oder et ou weil car is would seems ist est "
    "rather instead"
)
"""Words before which `A` is a letter, not an article."""


@dataclass(frozen=True, slots=True)
class _Place:
    start: int
    end: int
    first: int
    """Index of the token in which it starts."""
    last: int


def named_labels(reply: str, labels: Sequence[str]) -> set[str]:
    """The labels that a reply names and does not negate."""
    tokens = tokenise(reply)
    reply_text = " ".join(token.text for token in tokens)
    by_text = {text: label for label in labels if (text := normalise(label))}
    if reply_text in by_text:
        return {by_text[reply_text]}
    mentions = sorted(
        _mentions(reply_text, tokens, by_text), key=lambda mention: mention.place.first
    )
    _deny_lists(mentions, tokens)
    return {by_text[mention.text] for mention in mentions if not mention.is_denied}


@dataclass(slots=True)
class _Mention:
    place: _Place
    text: str
    is_denied: bool


def _mentions(
    reply_text: str, tokens: Sequence[Token], by_text: Mapping[str, str]
) -> Iterator[_Mention]:
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token.text) + 1)
    negations = [match.start() for match in _NEGATING_CHARACTER.finditer(reply_text)]
    free = reply_text
    for text in sorted(by_text, key=len, reverse=True):
        kept, end = [], 0
        for place in _places(free, text, starts):
            if _counts(tokens, place, text):
                is_denied = _is_denied(reply_text, tokens, place, starts, negations)
                yield _Mention(place, text, is_denied)
            kept.append(free[end : place.start])
            kept.append("|" * (place.end - max(end, place.start)))
            end = max(end, place.end)
        free = "".join([*kept, free[end:]])


def _deny_lists(mentions: Sequence[_Mention], tokens: Sequence[Token]) -> None:
    """Denies all labels of a list whose first is denied: `not a dog, cow, or bird`.

    Without `or` it is no such list: `not a dog, a cat`.
    """
    listed: list[_Mention] = []
    joined = False
    for mention in mentions:
        if listed:
            first, last = listed[-1].place.last + 1, mention.place.first
            between = [token.text for token in tokens[first:last]]
            if set(between) <= LIST_WORDS:
                joined = joined or not LIST_ENDS.isdisjoint(between)
                listed.append(mention)
                continue
            _deny(listed if joined else [])
        listed, joined = [mention] if mention.is_denied else [], False
    _deny(listed if joined else [])


def _deny(mentions: Sequence[_Mention]) -> None:
    for mention in mentions:
        mention.is_denied = True


def _places(reply_text: str, text: str, starts: Sequence[int]) -> Iterator[_Place]:
    start = reply_text.find(text)
    while start >= 0:
        end = start + len(text)
        if _is_whole(reply_text, start, end):
            first = bisect_right(starts, start) - 1
            last = bisect_left(starts, end) - 1
            yield _Place(start, end, first, last)
        start = reply_text.find(text, start + 1)


def _is_whole(reply_text: str, start: int, end: int) -> bool:
    """Whether a range starts and ends at word boundaries."""
    before, after = (
        (reply_text[start - 1] if start else " "),
        (reply_text[end] if end < len(reply_text) else " "),
    )
    begins = (
        before == " "
        or _is_script_edge(before, reply_text[start])
        or (end - start > 1 and _ELISION.search(reply_text, max(0, start - 7), start) is not None)
    )
    ends = (
        after == " "
        or (_is_script_edge(reply_text[end - 1], after) and not is_mark(after))
        or (end - start > 1 and _POSSESSIVE.match(reply_text, end) is not None)
        or _KOREAN_PARTICLES.match(reply_text, end) is not None
    )
    return begins and ends


def _is_script_edge(left: str, right: str) -> bool:
    """Whether a word may end between two adjacent characters."""
    if "|" in (left, right):
        return is_unspaced(left) or is_unspaced(right)
    if _is_katakana(left) and _is_katakana(right):
        return False
    return is_unspaced(left) or is_unspaced(right)


def _is_katakana(char: str) -> bool:
    return "\u30a0" <= char <= "\u30ff"


def _counts(tokens: Sequence[Token], place: _Place, text: str) -> bool:
    """Whether ambiguous words are used as labels."""
    token = tokens[place.first]
    following = tokens[place.last + 1] if place.last + 1 < len(tokens) else None
    if text in PARTICLES:
        answers = place.first > 1 and tokens[place.first - 2].text in ("answer", "antwort")
        answers |= place.first > 0 and tokens[place.first - 1].text in ("or", "oder", "ou", "или")
        if text in STATEMENT_VALUES and place.first > 0:
            answers |= tokens[place.first - 1].text in COPULAS
        return answers or (
            token.starts_clause
            and not (
                text == "no"
                and following is not None
                and not following.starts_clause
                and following.text in _IDLE_AFTER_NO
            )
        )
    if len(text) == 1 and text in LIKE_WORDS:
        stands = following is None or following.starts_clause or following.text in LETTER_FOLLOWERS
        return token.raw.isupper() and stands
    return True


def _is_denied(
    reply_text: str,
    tokens: Sequence[Token],
    place: _Place,
    starts: Sequence[int],
    negations: Sequence[int],
) -> bool:
    negation = bisect_left(negations, starts[place.first])
    is_within = negation < len(negations) and negations[negation] < place.start
    if is_within or _JAPANESE_NEGATION.match(reply_text, place.end):
        return True
    following = tokens[place.last + 1] if place.last + 1 < len(tokens) else None
    if following is not None and following.text in DENIED_BEFORE:
        return True
    next_words = tokens[place.last + 1 : place.last + 6]
    return _is_called_wrong(next_words) or is_denied(tokens, place.first)


def _is_called_wrong(following: Sequence[Token]) -> bool:
    """Whether what follows a label in its clause calls it wrong: `(the dog) option is wrong`."""
    words: list[str] = []
    for token in following:
        if token.starts_clause:
            break
        words.append(token.text)
    if words[:1] in (["option"], ["choice"], ["answer"]):
        words = words[1:]
    copula, *rest = words or [""]
    is_wrong = rest[:2] in (["not", "correct"], ["not", "right"]) or WRONG & set(rest[:2])
    return copula in COPULAS and bool(is_wrong)


def is_denied(tokens: Sequence[Token], index: int) -> bool:
    """Whether a negation before a token in the same clause applies to it."""
    for distance in range(_LONG + 1):
        place = index - distance
        if place < 0:
            return False
        if distance:
            word = tokens[place].text
            following = tokens[place + 1].text
            if (word, following) in (("rather", "than"), ("instead", "of")):
                return True
            if word in CONTRASTS:
                return False
            if _is_negation(word, following):
                return distance <= (_SHORT if word in SHORT_NEGATIONS else _LONG)
        if tokens[place].starts_clause:
            return False
    return False


def _is_negation(word: str, following: str) -> bool:
    if (word, following) in (("not", "only"), ("not", "just"), ("no", "doubt")):
        return False
    return word in NEGATIONS or word.endswith("n't") or word.startswith("n'")
