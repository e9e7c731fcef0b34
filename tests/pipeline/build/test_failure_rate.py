"""Tests the failure rates that stop a build."""

from __future__ import annotations

import random

import pytest

from manifests.cache.shards import Failure
from manifests.errors import UserError
from pipeline.build.failure_rate import FailureRate


def failed(count: int) -> list[Failure]:
    return [Failure(clip_id="x", stage="decode", error="empty", message="m") for _ in range(count)]


def test_a_stage_is_judged_by_itself():
    """Decoding is far ahead of the teacher, and its failures are early."""
    rate = FailureRate(0.2)
    for _ in range(8000):
        rate.add("decode", 64, failed(2))
    rate.add("asr", 64, [])


def test_an_even_pattern_below_the_limit_never_stops():
    rate, rng = FailureRate(0.2), random.Random(0)
    for _ in range(20_000):
        rate.add("decode", 4, failed(sum(rng.random() < 1 / 6 for _ in range(4))))


def test_a_late_fault_is_detected_soon():
    rate = FailureRate(0.2)
    rate.add("asr", 8000, [])
    for _ in range(1000):
        rate.add("asr", 4, [])
    for _ in range(110):
        rate.add("asr", 4, failed(4))
    with pytest.raises(UserError, match=r"of the last \d+ clips have failed in teacher asr"):
        rate.add("asr", 20, failed(20))


def test_nothing_is_decided_before_a_hundred_clips():
    rate = FailureRate(0.2)
    rate.add("decode", 96, failed(96))
    with pytest.raises(UserError, match="in decoding"):
        rate.add("decode", 4, failed(4))


@pytest.mark.parametrize("limit", [None, 1.0])
def test_without_a_limit_everything_may_fail(limit: float | None):
    rate = FailureRate(limit)
    for _ in range(1000):
        rate.add("decode", 4, failed(4))
