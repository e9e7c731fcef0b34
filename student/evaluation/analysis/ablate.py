"""Tests whether a student uses its block: asks the same questions with a changed block or audio.

A student that answers equally well with another clip's states in its block does not use them. Worse
answers with zeros show less, because states that never occur disturb any model. Therefore all
conditions are compared, each paired with the intact student, question by question.

`markers only` and `block removed` change the prompt's length compared with training; `no audio`
shows what can be guessed from the question; with `other audio`, a student that uses the audio falls
to chance. With `audio hidden`, text can attend to the clip only through the block, with `block
hidden` only through the audio tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from manifests.console import messages
from manifests.errors import UserError
from manifests.wording import number_of
from student.evaluation.analysis.attention_edits import (
    Hidden,
    attention_shares,
    block_states,
    collapse,
    hidden_from_text,
)
from student.evaluation.analysis.state_edits import (
    REPLACEMENTS,
    Replacement,
    check_one_block,
    replaced,
)
from student.evaluation.answering import (
    Prompt,
    PromptEdit,
    QuestionBatch,
    QuestionRunner,
    Reply,
    StateEdit,
    TokenLimits,
)
from student.evaluation.journal import Journal, build_identity, open_journal
from student.evaluation.partners import Partners, find_partners, swap_audio
from student.evaluation.questions import Question, digest
from student.evaluation.results import read_analysis, write_analysis
from student.evaluation.scoring.intervals import RESAMPLES, Interval
from student.evaluation.scoring.scores import (
    Answer,
    paired_interval,
    read_reply,
    score_answers,
    task_tables,
)
from student.runs.folder import Run

FILE = "ablation"
MEASURED_QUESTIONS = 64
"""Approximate number of questions for measuring attention and differences of block states."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The inputs of all conditions."""

    runner: QuestionRunner
    questions: Sequence[Question]
    partners: Partners
    first_layer: int


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One change of a student's inputs or states."""

    name: str
    needs_block: bool = True
    uses_partners: bool = False
    """Whether questions without a true partner make it less meaningful."""
    questions: Callable[[Setting], Sequence[Question]] | None = None
    """Other questions to ask."""
    edit_prompt: Callable[[Setting], PromptEdit] | None = None
    edit_states: Callable[[Setting], StateEdit] | None = None


def _without_tokens(setting: Setting, *, markers: bool) -> PromptEdit:
    block = setting.runner.trained.student.block
    assert block is not None
    ids = torch.tensor(block.ids if markers else block.content_ids)

    def edit(prompt: Prompt) -> Prompt:
        return replace(prompt, ids_S=prompt.ids_S[~torch.isin(prompt.ids_S, ids)])

    return edit


def _replace_states(setting: Setting, *, kind: Replacement) -> StateEdit:
    def edit(batch: QuestionBatch) -> AbstractContextManager[None]:
        source = None
        if kind == "other clip":
            others = [setting.questions[setting.partners.places[place]] for place in batch.places]
            source = setting.runner.batch(others).inputs
        return replaced(
            setting.runner.trained.student, batch.inputs, kind,
            source=source, first_layer=setting.first_layer,
        )  # fmt: skip

    return edit


def _hide(setting: Setting, *, hidden: Hidden) -> StateEdit:
    def edit(batch: QuestionBatch) -> AbstractContextManager[None]:
        return hidden_from_text(setting.runner.trained.student, batch.inputs, hidden)

    return edit


CONDITIONS = (
    Condition(name="intact", needs_block=False),
    *(
        Condition(
            name=kind,
            uses_partners=kind == "other clip",
            edit_states=functools.partial(_replace_states, kind=kind),
        )
        for kind in REPLACEMENTS
    ),
    Condition(name="audio hidden", edit_states=functools.partial(_hide, hidden="audio")),
    Condition(name="block hidden", edit_states=functools.partial(_hide, hidden="block")),
    Condition(name="markers only", edit_prompt=functools.partial(_without_tokens, markers=False)),
    Condition(name="block removed", edit_prompt=functools.partial(_without_tokens, markers=True)),
    Condition(
        name="other audio",
        needs_block=False,
        uses_partners=True,
        questions=lambda setting: swap_audio(setting.questions, setting.partners),
    ),
    Condition(
        name="no audio",
        needs_block=False,
        edit_prompt=lambda setting: setting.runner.without_audio,
    ),
)


def ablate(
    run: str | Path,
    questions: Sequence[Question],
    *,
    first_layer: int = 0,
    batch_size: int = 16,
    resamples: int = RESAMPLES,
    limits: TokenLimits | None = None,
) -> dict:
    """Measures a run under every condition and writes RUN/ablation.json.

    Replies are kept as they are made, so a killed ablation resumes. A finished one with the same
    checkpoint, questions and settings is returned as it is.

    Args:
        run: Folder of a run.
        questions: Questions with answers.
        first_layer: First decoder layer whose input states are replaced.
        batch_size: Questions per forward pass.
        resamples: Resamples of the bootstrap.
        limits: Maximum lengths of replies.

    Returns:
        The written report: `arm`, `seed`, `layers` (whose input states are replaced),
        `without_true_partner` (questions without a clip of the same task with another answer),
        `conditions`: condition -> scores (see `score_answers`), `change`, the paired difference to
        the intact student, and `same_reply`, the share of equal replies. With a block
        also `attention` (see `attention_shares`) and `block_states` (see `collapse`).

    Raises:
        UserError: the layer does not exist, or all questions are about one recording.
    """
    if not Run(run).exists:
        messages.print(
            f"{run} is a plain checkpoint, so only its audio is replaced: for the block, give the "
            "run that it was exported from",
            markup=False,
        )
    limits = limits or TokenLimits()
    identity = build_identity(
        run,
        digest(questions),
        max_tokens={"answer": limits.answer, "transcription": limits.transcription},
        first_layer=first_layer,
        resamples=resamples,
    )
    if finished := read_analysis(run, FILE, identity):
        return finished
    with open_journal(Run(run).unfinished_analysis_file(FILE), identity) as journal:
        runner = QuestionRunner(run, batch_size=batch_size, limits=limits)
        report = _measure(runner, questions, journal, first_layer, resamples)
        write_analysis(run, FILE, report | {"identity": identity})
    return report | {"identity": identity}


def _measure(
    runner: QuestionRunner,
    questions: Sequence[Question],
    journal: Journal,
    first_layer: int,
    resamples: int,
) -> dict:
    check_one_block(runner.trained, questions)
    student = runner.trained.student
    num_layers = student.base.config.get_text_config().num_hidden_layers
    if student.block is not None and not 0 <= first_layer < num_layers:
        raise UserError(f"there is no decoder layer {first_layer}; the last is {num_layers - 1}")
    find_partners(questions)  # before any question is asked
    intact = _ask_and_keep(runner, questions, journal, name="intact")
    questions, intact = _readable(questions, intact)
    partners = find_partners(questions)
    setting = Setting(
        runner=runner, questions=questions, partners=partners, first_layer=first_layer
    )
    conditions = [c for c in CONDITIONS if student.block is not None or not c.needs_block]
    answers = {"intact": _read(questions, intact)}
    for condition in conditions:
        if condition.name not in answers:
            answers[condition.name] = _read(questions, _ask(setting, condition, journal))
    tables = {name: task_tables([given]) for name, given in answers.items()}
    scores = {}
    for name, given in answers.items():
        change = (
            Interval(0.0, None, None)  # the intact student is compared with itself
            if name == "intact"
            else paired_interval(tables[name], tables["intact"], resamples=resamples)
        )
        scores[name] = score_answers([given], resamples=resamples) | {
            "change": {"score": change.value, "low": change.low, "high": change.high},
            "same_reply": _share_of_same_replies(given, answers["intact"]),
        }
    return {
        "arm": runner.trained.recipe.arm if Run(runner.path).exists else "base",
        "seed": runner.trained.recipe.seed,
        "questions": len(questions),
        "digest": digest(questions),
        "unreadable": len(runner.failures),
        "without_true_partner": partners.num_untrue,
        "layers": list(range(first_layer, num_layers)) if student.block else [],
        "head_layer": student.head_layer,
        "conditions": scores,
        **_measure_block(setting),
    }


def _measure_block(setting: Setting) -> dict:
    """Measures the attention of the answer, and how much the block's states depend on the clip."""
    student = setting.runner.trained.student
    if student.block is None:
        return {}
    stride = max(1, len(setting.questions) // MEASURED_QUESTIONS)
    asked = list(setting.questions)[::stride]
    others = swap_audio(setting.questions, setting.partners)[::stride]
    step = setting.runner.batch_size
    own, other = (
        [
            setting.runner.batch(each[place : place + step]).inputs
            for place in range(0, len(each), step)
        ]
        for each in (asked, others)
    )
    states = [
        torch.cat([block_states(student, inputs) for inputs in each]) for each in (own, other)
    ]
    return {"attention": attention_shares(student, own), "block_states": collapse(*states)}


def _ask(setting: Setting, condition: Condition, journal: Journal | None = None) -> list[Reply]:
    questions = condition.questions(setting) if condition.questions else setting.questions
    partners = swap_audio(setting.questions, setting.partners)
    return _ask_and_keep(
        setting.runner,
        questions,
        journal,
        name=condition.name,
        # If other audio can be read after a kill, questions have other partners.
        depends_on=digest(partners if condition.uses_partners else setting.questions),
        edit_prompt=condition.edit_prompt(setting) if condition.edit_prompt else None,
        edit_states=condition.edit_states(setting) if condition.edit_states else None,
    )


def _ask_and_keep(
    runner: QuestionRunner,
    questions: Sequence[Question],
    journal: Journal | None,
    *,
    name: str,
    depends_on: str = "",
    edit_prompt: PromptEdit | None = None,
    edit_states: StateEdit | None = None,
) -> list[Reply]:
    part = f"{name} {depends_on}".strip()
    return runner.replies(
        questions,
        edit_prompt=edit_prompt,
        edit_states=edit_states,
        description=name,
        kept=journal.replies(part) if journal else None,
        keep=functools.partial(journal.keep_replies, part) if journal else None,
    )


def _readable(
    questions: Sequence[Question], replies: Sequence[Reply]
) -> tuple[list[Question], list[Reply]]:
    """Returns the questions that could be asked, and their replies."""
    pairs = [pair for pair in zip(questions, replies, strict=True) if not pair[1].failure]
    if not pairs:
        raise UserError(f"no audio can be read: {replies[0].failure}")
    if len(pairs) < len(questions):
        messages.print(
            f"{number_of(len(questions) - len(pairs), 'question')} left out: unreadable audio"
        )
    return [question for question, _ in pairs], [reply for _, reply in pairs]


def _read(questions: Sequence[Question], replies: Sequence[Reply]) -> list[Answer]:
    return [
        read_reply(question, reply.text, cut=reply.is_cut)
        for question, reply in zip(questions, replies, strict=True)
    ]


def _share_of_same_replies(answers: Sequence[Answer], intact: Sequence[Answer]) -> float:
    pairs = zip(answers, intact, strict=True)
    return sum(ours.reply == theirs.reply for ours, theirs in pairs) / len(intact)


def build_table(report: dict) -> Table:
    """Renders conditions by tasks, with the change from the intact student."""
    tasks = list(report["conditions"]["intact"]["tasks"])
    asked = "is the block used?" if "block_states" in report else "is the audio used?"
    title = f"{report['arm']}, seed {report['seed']}: {asked}"
    untrue = report["without_true_partner"]
    note = (
        f"{untrue} of {report['questions']} questions have no clip of their task with another "
        "answer: for them, `other clip` and `other audio` show less"
    )
    notes = [note] if untrue else []
    if "attention" in report:
        shares = {group: sum(each) / len(each) for group, each in report["attention"].items()}
        states = report["block_states"]
        notes.append(
            "the answer's attention, mean over layers: "
            + ", ".join(f"{group} {share:.2f}" for group, share in shares.items())
            + f"; block states: cosine between clips {states['cosine_between_clips']:.2f}, "
            f"change with other audio {states['change_with_other_audio']:.2f}"
        )
    caption = "\n".join(notes) or None
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, caption=caption)
    table.add_column("condition", no_wrap=True)
    table.add_column("mean score", justify="right")
    table.add_column("change", justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for heading in ("same reply", *tasks):
        table.add_column(heading, justify="right", overflow="fold")
    for condition, numbers in report["conditions"].items():
        change = numbers["change"]
        table.add_row(
            condition,
            f"{numbers['mean']['score']:.3f}",
            f"{change['score']:+.3f}",
            "-" if change["low"] is None else f"{change['low']:+.3f} .. {change['high']:+.3f}",
            f"{numbers['same_reply']:.2f}",
            *(f"{numbers['tasks'][task]['score']:.2f}" for task in tasks),
        )
    return table
