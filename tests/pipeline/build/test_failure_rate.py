"""Tests for the failure rate that stops a build."""

from __future__ import annotations

import random

import pytest

from manifests.cache.shards import Failure
from manifests.errors import UserError
from pipeline.build.failure_rate import FailureRate


def make_failures(count: int) -> list[Failure]:
    return [Failure(clip_id="x", stage="decode", error="empty", message="m") for _ in range(count)]


def test_stages_have_separate_failure_rates():
    """Decoding runs far ahead of the teacher, so its failures come early."""
    rate = FailureRate(0.2)
    for _ in range(8000):
        rate.add("decode", 64, make_failures(2))
    rate.add("asr", 64, [])


def test_failures_below_the_limit_never_stop_a_build():
    rate, rng = FailureRate(0.2), random.Random(0)
    for _ in range(20_000):
        rate.add("decode", 4, make_failures(sum(rng.random() < 1 / 6 for _ in range(4))))


def test_late_fault_stops_the_build_soon():
    rate = FailureRate(0.2)
    rate.add("asr", 8000, [])
    for _ in range(1000):
        rate.add("asr", 4, [])
    for _ in range(110):
        rate.add("asr", 4, make_failures(4))
    with pytest.raises(UserError, match=r"of the last \d+ clips have failed in teacher asr"):
        rate.add("asr", 20, make_failures(20))


def test_first_hundred_clips_never_stop_a_build():
    rate = FailureRate(0.2)
    rate.add("decode", 96, make_failures(96))
    with pytest.raises(UserError, match="in decoding"):
        rate.add("decode", 4, make_failures(4))


def test_build_without_any_of_its_files_names_the_disk():
    """With 100 clips and more, the advice used to be `--max-failure-rate 1`, which records them."""
    missing = [Failure(clip_id="x", stage="decode", error="missing", message="/a is not there")]
    rate = FailureRate(0.2)
    rate.add("decode", 96, missing * 96)
    with pytest.raises(UserError, match=r"^none of the 100 audio files .*/a is not there.*mount"):
        rate.add("decode", 4, missing * 4)
    rate = FailureRate(0.2)
    rate.add("decode", 10, [])
    with pytest.raises(UserError, match=r"of the last 110 clips have failed.*mount the disk"):
        rate.add("decode", 100, missing * 100)


@pytest.mark.parametrize("limit", [None, 1.0])
def test_without_a_limit_no_failure_rate_stops_a_build(limit: float | None):
    rate = FailureRate(limit)
    for _ in range(1000):
        rate.add("decode", 4, make_failures(4))


def test_few_clips_that_all_fail_are_an_error_at_the_end():
    """Such a build used to end with exit code 0, which a script takes for a success."""
    for stage, place in (("decode", "decoding"), ("colour", "teacher colour")):
        rate = FailureRate(0.2)
        rate.add(stage, 65, make_failures(65))
        rate.add("asr", 65, make_failures(64))
        with pytest.raises(UserError, match=rf"all 65 clips have failed in {place}: decode: empty"):
            rate.check_end()
    for limit, clips in ((None, 65), (1.0, 65), (0.2, 9)):
        rate = FailureRate(limit)
        rate.add("colour", clips, make_failures(clips))
        rate.check_end()
