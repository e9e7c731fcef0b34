"""What a reply answers, decided strictly: one option or none.

A reply that names no option, or more than one, is a parse failure and counts as wrong; its rate
stands beside every score, because a lenient reader can make a score out of a model's chatter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from student.evaluation.questions import LETTERS

_LETTER = re.compile(
    r"^(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)?\s*(?:is)?\s*:?\s*"
    r"\(?([a-z])\)?(?:[.:,)]|\s|$)",
    re.IGNORECASE,
)
"""A letter at the start, alone or after `The answer is`; what follows it is looked at apart."""
_MARKED = re.compile(r"\(([A-Z])\)|\b([A-Z])[.:)](?:\s|$)")
"""Letters with a mark that says they are options: `(B)`, `B.`, `B)`."""


def normal(text: str) -> str:
    """Lower case, words by single spaces, no punctuation around words but inner apostrophes."""
    return " ".join(re.sub(r"[^\w'#+-]+", " ", text.lower()).split())


def extract_choice(reply: str, choices: Sequence[str]) -> str | None:
    """The one choice that a reply to a multiple-choice question names; None if there is none.

    Accepted are a choice's text, its letter (`B`, `(B)`, `B.`, `The answer is B`), or both where
    they agree; and one choice's text anywhere in the reply, if no other choice is named.
    """
    whole = extract_label(reply, choices)
    letters = {first or second for first, second in _MARKED.findall(reply)}
    start = _LETTER.match(reply.strip())
    if start and (len(reply.split()) == 1 or start[0].strip()[-1:] in ".:,)" or _after_is(start)):
        letters.add(start[1].upper())
    named = {choices[LETTERS.index(letter)] for letter in letters
             if LETTERS.index(letter) < len(choices)}  # fmt: skip
    if letters and len(named) != 1:
        return None
    if whole is not None:
        named.add(whole)
    return named.pop() if len(named) == 1 else None


def extract_label(reply: str, labels: Sequence[str]) -> str | None:
    """The one label that a reply is, or has in it as whole words; None if there is none or several.

    The longest labels are looked for first, so `C sharp` is not `C`, and what a label has matched
    is not matched again.
    """
    said = normal(reply)
    by_text = {normal(label): label for label in labels}
    if said in by_text:
        return by_text[said]
    named = set()
    for text in sorted(by_text, key=len, reverse=True):
        pattern = rf"(?<![\w'#+-]){re.escape(text)}(?![\w'#+-])"
        if text and re.search(pattern, said):
            named.add(by_text[text])
            said = re.sub(pattern, "|", said)
    return named.pop() if len(named) == 1 else None


def _after_is(start: re.Match[str]) -> bool:
    return re.search(r"\b(answer|option|choice|is)\b", start[0], re.IGNORECASE) is not None
