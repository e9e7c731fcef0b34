"""Selects the clips that `coat-student probe` fits and scores its probes on.

This module imports no large libraries, so that too few clips are reported before PyTorch is
imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from manifests.errors import UserError
from manifests.wording import number_of
from student.data.examples import fraction
from student.evaluation.questions import Question, absolute

SCORED_SHARE = 0.3
"""Expected share of the recordings that probes are scored on; they are fitted to the others."""
FEWEST, FEWEST_ON_A_SIDE = 30, 8
"""Smallest number of clips, and of those for fitting and for scoring."""
NEUTRAL = "What is heard?"


def by_clip(questions: Sequence[Question]) -> tuple[list[Question], dict[str, list[str | None]]]:
    """Returns one neutral question per clip, and the clips' labels by task.

    Questions without a clip id are about the same clip if they are about the same audio.
    """
    clips: dict[str, Question] = {}
    unnamed: dict[tuple[str, float, float | None], str] = {}
    answers: dict[str, dict[str, str]] = {}
    for question in questions:
        key = question.clip_id or unnamed.setdefault(question.recording, question.id)
        clips.setdefault(
            key,
            replace(question, id=key, kind="label", question=NEUTRAL, task="all", choices=()),
        )
        if question.kind != "transcription":
            answers.setdefault(question.task, {})[key] = question.answer
    labels = {task: [known.get(key) for key in clips] for task, known in answers.items()}
    return list(clips.values()), labels


def recording_keys(clips: Sequence[Question]) -> list[str]:
    """Returns the first clip id of each clip's group or file. It contains no path, so that the
    split is equal on every machine."""
    origins = [clip.group or absolute(clip.audio) for clip in clips]
    first: dict[str, str] = {}
    for origin, clip in zip(origins, clips, strict=True):
        first[origin] = min(first.get(origin, clip.id), clip.id)
    return [first[origin] for origin in origins]


def is_scored(recording: str) -> bool:
    """Returns whether probes are scored on a recording, and not fitted to it."""
    return fraction("probe", recording) < SCORED_SHARE


def check_enough(questions: Sequence[Question]) -> None:
    """Checks that there are enough clips to fit probes and to score them.

    Raises:
        UserError: there are not.
    """
    clips, _ = by_clip(questions)
    recordings = recording_keys(clips)
    num_scored = sum(map(is_scored, recordings))
    num_fitted = len(clips) - num_scored
    if len(clips) < FEWEST or min(num_scored, num_fitted) < FEWEST_ON_A_SIDE:
        few = f"{number_of(len(clips), 'clip')} of {number_of(len(set(recordings)), 'recording')}"
        raise UserError(
            f"{few} ({num_fitted} for fitting, {num_scored} for scoring): too few for probes, "
            f"which need {FEWEST} clips, better 300, and at least {FEWEST_ON_A_SIDE} of them for "
            "either purpose; pass more questions with --questions FILE"
        )
