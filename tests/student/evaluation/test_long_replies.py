"""Tests parsing of very long replies: the time is linear in their length, and bounded."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from student.evaluation.scoring.extraction import MAX_CHARACTERS, extract_choice, extract_label
from student.text import split_words

CHOICES = ("dog", "cat", "bird song", "C sharp")
REPEATED = (
    "the quick brown fox ", "a", "dog ", "not a dog, cat, ", "answer ", "the answer is ", "A, B, ",
    "(A), (B) ", "不是狗", "option A is wrong ", "so ", "A. dog\n", " ,", "\\boxed{", "<think>",
    "<|a", "l'dog ", "dog는 ", "is B. ", "rule out A and ", "d́",
)  # fmt: skip
"""Texts that a student might repeat until the token limit."""


def seconds(parse: Callable[[str], object], text: str, *, calls: int = 1) -> float:
    """Returns the processor time of the fastest of some calls."""
    times = []
    for _ in range(calls):
        start = time.process_time()
        parse(text)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("text", REPEATED)
def test_parsing_a_megabyte_takes_seconds(text: str) -> None:
    """Quadratic parsing of a megabyte takes from minutes to days."""
    reply = (text * (1_000_000 // len(text) + 1))[:1_000_000]
    assert seconds(lambda reply: extract_choice(reply, CHOICES), reply) < 5
    assert seconds(lambda reply: extract_label(reply, CHOICES), reply) < 5


@pytest.mark.parametrize("text", REPEATED)
def test_parsing_takes_time_in_proportion_to_the_length(text: str) -> None:
    """Eight times the length may take 24 times the time; quadratic parsing takes 64 times."""
    for parse in (lambda reply: extract_choice(reply, CHOICES), split_words):
        long = (text * MAX_CHARACTERS)[:MAX_CHARACTERS]
        expected = max(seconds(parse, long[: MAX_CHARACTERS // 8], calls=3), 0.002)
        assert seconds(parse, long, calls=3) < 24 * expected


def test_connectives_without_letters_do_not_stop_the_parser() -> None:
    """Matching took twice the time for each further comma: days for a line of them."""
    assert seconds(lambda reply: extract_choice(reply, CHOICES), "A" + " ," * 60 + " x") < 1


@pytest.mark.parametrize("reply", ["{answer} {noise}", "{noise} {answer}"])
def test_answers_at_either_end_of_long_replies_are_read(reply: str) -> None:
    noise = "and on " * MAX_CHARACTERS
    text = reply.format(answer="The answer is B.", noise=noise)
    assert extract_choice(text, CHOICES) == "cat"
    assert extract_label(reply.format(answer="It is a dog.", noise=noise), CHOICES) == "dog"


def test_words_at_a_cut_are_not_read() -> None:
    half = MAX_CHARACTERS // 2
    text = "x" * (half - 4) + " category " + "y" * MAX_CHARACTERS
    assert text[:half].endswith(" cat")
    assert extract_label(text, CHOICES) is None


@pytest.mark.parametrize("parse", [extract_choice, extract_label])
def test_reasoning_of_any_length_is_not_read(
    parse: Callable[[str, tuple[str, ...]], str | None],
) -> None:
    thoughts = "<think>" + "a cat or a dog? " * MAX_CHARACTERS + "</think>"
    assert parse(f"{thoughts}\ndog", CHOICES) == "dog"
