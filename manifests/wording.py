"""Numbers in messages, so that "1 clip" and "2,000 clips" are right wherever they are printed."""

from __future__ import annotations


def number_of(number: int, singular: str, plural: str = "") -> str:
    """Adds the noun to a number: `1 clip`, `0 clips`, `2,000 clips`.

    Args:
        number: The number.
        singular: Noun after 1, with its verb if there is one: `clip`, or `clip has`.
        plural: Noun after all other numbers; `singular` with an "s" if empty.
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
