"""Decides how many blocks are decoded ahead of the teachers, from measured speeds.

Too few, and a teacher waits for audio; too many, and memory holds audio that nobody needs yet. The
room on each node (`pipeline.build.queues`) bounds the number in any case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.build.pools import Pool

MOST_PER_WORKER = 8
"""Maximum number of blocks per worker of the largest pool."""
MARGIN = 2.0
"""Decoding times vary, and commits come first: this many times the average is decoded ahead. While
a speed is unknown, this is the number of blocks per worker that decodes."""
DECODE = "decode"
"""Key of decoding among the costs."""


def most_blocks(pools: Sequence[Pool]) -> int:
    """The number of blocks that are open at most, whatever the speeds."""
    return MOST_PER_WORKER * max(1, *(len(pool.members) for pool in pools))


def blocks_ahead(
    pools: Sequence[Pool],
    decoders: Pool,
    costs: Mapping[str, float],
    *,
    commit_seconds: float = 0.0,
    block_seconds: float = 0.0,
) -> int:
    """The number of blocks that are being decoded, wait for a teacher or are with one.

    The workers hold the blocks that are queued at them. While a block is decoded, the slowest pool
    finishes as many others as it has time for; these must be decoded already. So must those that
    it finishes while the decoders write a shard of every teacher.

    Args:
        pools: All pools.
        decoders: The pool that decodes and commits.
        costs: Teacher, or `DECODE` -> worker seconds per second of audio.
        commit_seconds: Worker seconds of a commit; 0 if unknown.
        block_seconds: Audio of a block in seconds; 0 if unknown.
    """
    queued = sum(len(pool.members) * pool.depth for pool in pools if pool.setups)
    slowest = max(_pace(pool, pool is decoders, costs) for pool in pools)
    if 0 < slowest < math.inf:
        decoding = max(decoders.num_ready, math.ceil(MARGIN * costs[DECODE] / slowest))
        if block_seconds and decoders.num_ready:
            commits = sum(len(pool.setups) for pool in pools)
            pause = commits * commit_seconds / decoders.num_ready
            decoding += int(pause / (slowest * block_seconds))
    else:
        decoding = math.ceil(MARGIN * decoders.num_ready)
    return min(queued + decoding, most_blocks(pools))


def _pace(pool: Pool, decodes: bool, costs: Mapping[str, float]) -> float:
    """Seconds that a pool needs for a second of audio; infinity if unknown."""
    names = [setup.name for setup in pool.setups] + [DECODE] * decodes
    if not pool.num_ready:
        return math.inf
    return sum(costs.get(name, math.inf) for name in names) / pool.num_ready
