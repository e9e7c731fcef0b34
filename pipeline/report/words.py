"""Word error rate of transcripts against the texts of the corpus."""

from __future__ import annotations

import re


def units(text: str) -> list[str]:
    """The units to compare: words, or characters for scripts without spaces between words."""
    # A hyphen within a word belongs to it, as in the scores of `coat-student eval`.
    words_only = re.sub(r"[^\w\s'-]|(?<!\w)-|-(?!\w)", " ", text.casefold())
    words = words_only.split()
    unspaced = len(words) <= 2 and not words_only.isascii() and len(words_only) > 8
    return list("".join(words)) if unspaced else words


def error_rate(reference: str, hypothesis: str) -> float:
    """Substitutions, insertions and deletions per unit of the reference (word error rate).

    1.0 if the reference has no words and the hypothesis has some.
    """
    truth, guess = units(reference), units(hypothesis)
    if not truth:
        return float(bool(guess))
    if len(truth) > 2 and all(len(unit) == 1 for unit in truth):
        guess = list("".join(guess))
    costs = list(range(len(guess) + 1))
    for row, unit in enumerate(truth, 1):
        before, costs[0] = costs[0], row
        for column, other in enumerate(guess, 1):
            before, costs[column] = (
                costs[column],
                min(costs[column] + 1, costs[column - 1] + 1, before + (unit != other)),
            )
    return costs[-1] / len(truth)
