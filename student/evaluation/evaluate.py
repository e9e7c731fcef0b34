"""`coat-student eval`: scores a student's answers to a set of questions.

The scores are written to the student's own folder (see `student.evaluation.results`). Comparisons
are made afterwards from these files.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from manifests.console import messages
from manifests.errors import UserError
from manifests.wording import number_of
from student.evaluation.answering import QuestionRunner, TokenLimits
from student.evaluation.journal import build_identity, open_journal
from student.evaluation.questions import Question, digest
from student.evaluation.results import (
    check_name,
    read_kept_replies,
    remove_scores,
    write_answers,
    write_scores,
)
from student.evaluation.scoring.scores import score_answers
from student.release.card import record_score
from student.runs.folder import Run

PART = "replies"
NAMED = 5
"""Number of recordings that cannot be read that a message names."""


def evaluate(
    run: str | Path,
    questions: Sequence[Question],
    name: str,
    *,
    batch_size: int = 16,
    blind: bool = False,
    limits: TokenLimits | None = None,
) -> dict:
    """Asks one student a set of questions, and writes RUN/eval/NAME.json.

    Args:
        run: A run, or a plain checkpoint (the arm `base`).
        questions: Questions with answers.
        name: Name of the set of questions.
        batch_size: Questions per forward pass.
        blind: Ask without audio, to measure what can be guessed from the questions.
        limits: Maximum lengths of replies.

    Replies are kept as they are made. The next evaluation with the same checkpoint, questions and
    settings asks only the remaining questions, and those whose audio could not be read. If none
    remain, the student is not loaded.

    Returns:
        `arm`, `seed`, `questions`, `unreadable` (questions that are skipped, because their audio
        cannot be read), `digest` of the questions, `max_tokens`, `identity` (see `build_identity`)
        and the scores (see `score_answers`).

    Raises:
        UserError: results with this name are about other questions, or no audio can be read.
    """
    check_name(run, name, questions)
    files = Run(run)
    limits = limits or TokenLimits()
    max_tokens = {"answer": limits.answer, "transcription": limits.transcription}
    identity = build_identity(run, digest(questions), max_tokens=max_tokens, blind=blind)
    with open_journal(files.unfinished_answers_file(name), identity) as journal:
        kept = read_kept_replies(run, name, identity) | journal.replies(PART)
        if all(question.id in kept for question in questions):
            messages.print(
                f"{run}: all {len(questions):,} replies are kept from before", markup=False
            )
            replies = [kept[question.id] for question in questions]
        else:
            runner = QuestionRunner(run, batch_size=batch_size, limits=limits)
            replies = runner.replies(
                questions,
                edit_prompt=runner.without_audio if blind else None,
                description=str(run),
                kept=kept,
                keep=functools.partial(journal.keep_replies, PART),
            )
        failures = [reply.failure for reply in replies if reply.failure]
        if len(failures) == len(questions):
            raise UserError(
                f"the audio of none of {len(questions)} questions can be read: {failures[0]}"
            )
        remove_scores(run, name)  # those of other replies, so that they are never mixed
        answers = write_answers(run, name, questions, replies)
        report = {
            "name": name,
            "arm": files.recipe.arm if files.exists else "base",
            "seed": files.recipe.seed if files.exists else 0,
            "blind": blind,
            "questions": len(answers),
            "unreadable": len(failures),
            "digest": digest(questions),
            "max_tokens": max_tokens,
            "identity": identity,
            **score_answers([answers]),
        }
        write_scores(run, name, report)
    if not files.exists:
        record_score(Path(run), name, len(answers), report["mean"])
    if failures:
        reasons = list(dict.fromkeys(failures))
        others = f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
        messages.print(
            f"{run}: {len(failures)} of {number_of(len(questions), 'question')} skipped, because "
            f"the audio cannot be read: {'; '.join(reasons[:NAMED])}{others}",
            markup=False,
        )
    cut = sum(answer.cut for answer in answers)
    if cut:
        messages.print(
            f"{run}: {cut} of {len(answers)} replies were truncated at the token limit; see "
            "--max-tokens and --max-transcript-tokens",
            markup=False,
        )
    return report
