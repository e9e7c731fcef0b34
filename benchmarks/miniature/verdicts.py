"""Pre-registered questions of the second edition, and their answers.

Pre-registered on 26 November 2026, before any arm was trained on the tasks of `hearing.py`:

- "The block is used" by an arm: the gain is its mean score on the test questions minus its score
  without audio. Another clip's block states must cost at least a third of the gain, and with audio
  hidden from text more than half of the gain must be left; both as means over seeds.
- "The block helps": the paired difference of an arm with a block to `distill` on held-out clips,
  over all seeds, lies above 0 with its whole 95 % interval.

Shares of the bottleneck, K, the head layer and lambda are only varied on validation questions.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

USED_COST = 1 / 3
"""Minimum share of the gain that is lost with another clip's states."""
USED_LEFT = 1 / 2
"""Share of the gain that must be exceeded with audio hidden from text."""


def describe_use(arm: str, reports: Sequence[Mapping]) -> str:
    """Describes in one sentence whether an arm uses its block, from the ablations of its seeds."""

    def score(condition: str) -> float:
        means = [report["conditions"][condition]["mean"]["score"] for report in reports]
        return statistics.mean(means)

    intact = score("intact")
    gain = intact - score("no audio")
    cost, left = intact - score("other clip"), score("audio hidden") - score("no audio")
    if gain <= 0:
        return f"{arm}: audio gains nothing ({gain:+.3f}), so nothing can be said of its block"
    used = cost >= USED_COST * gain and left > USED_LEFT * gain
    return (
        f"{arm}: the block is {'used' if used else 'not used'}: of a gain of {gain:.3f} another "
        f"clip's states cost {cost:.3f} ({cost / gain:.0%}), and with audio hidden {left:.3f} "
        f"({left / gain:.0%}) are left"
    )


def describe_benefit(arm: str, difference: Mapping) -> str:
    """Describes in one sentence whether an arm's block helps, from its difference to `distill`."""
    helps = difference["low"] > 0
    return (
        f"{arm}: the block {'helps' if helps else 'does not help'}: {difference['score']:+.3f} "
        f"({difference['low']:+.3f} .. {difference['high']:+.3f}) against distill"
    )
