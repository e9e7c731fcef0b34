"""Selects for every question another recording, whose audio or block states replace its own.

Partners are drawn from all questions, not from a batch, so the result does not depend on batches. A
true partner has the same task and another answer: only then does a correct reply show that the
question's own recording was used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from manifests.errors import UserError
from student.evaluation.questions import Question
from student.text import normalise


@dataclass(frozen=True, slots=True)
class Partners:
    """The partners of questions."""

    places: tuple[int, ...]
    """Position of each question's partner among the questions."""
    num_untrue: int
    """Number of questions whose partner has another task or the same answer."""


def find_partners(questions: Sequence[Question]) -> Partners:
    """Selects a partner for each question, always another recording.

    Raises:
        UserError: all questions are about one recording.
    """
    rng = np.random.default_rng(0)
    by_task: dict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        by_task[question.task].append(place)
    answers = [normalise(question.answer) or question.answer for question in questions]
    recordings = [question.recording for question in questions]
    places, num_untrue = [], 0
    for place, question in enumerate(questions):
        task = rng.permutation(by_task[question.task])
        partner = next(
            (
                int(other)
                for other in task
                if recordings[other] != recordings[place] and answers[other] != answers[place]
            ),
            None,
        )
        if partner is None:
            num_untrue += 1
            others = [*task, *rng.permutation(len(questions))]
            partner = next((int(x) for x in others if recordings[x] != recordings[place]), None)
        if partner is None:
            raise UserError(
                "all questions are about one recording, so there is no other recording to "
                "replace it; use questions about at least two recordings"
            )
        places.append(partner)
    return Partners(tuple(places), num_untrue)


def swap_audio(questions: Sequence[Question], partners: Partners) -> list[Question]:
    """The same questions, each about its partner's recording."""
    return [
        replace(
            question,
            audio=other.audio,
            offset=other.offset,
            duration=other.duration,
            clip_id=other.clip.clip_id,
        )
        for question, other in zip(
            questions, (questions[place] for place in partners.places), strict=True
        )
    ]
