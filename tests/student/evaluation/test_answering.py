"""Tests for answering questions: precision, batch sizes, memory, and unreadable recordings."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from manifests import progress as progress_module
from manifests.errors import UserError
from manifests.progress import progress
from student.evaluation.analysis.ablate import CONDITIONS, ablate
from student.evaluation.analysis.probe import probe
from student.evaluation.answering import QuestionRunner, TokenLimits
from student.evaluation.evaluate import evaluate
from student.evaluation.partners import find_partners
from student.evaluation.questions import Question
from tests.student.conftest import FAMILIES


@pytest.fixture(scope="module")
def questions(toy_data: Any) -> list[Question]:
    """Questions about the note of 32 clips."""
    return [
        Question(
            id=clip.clip_id, kind="label", audio=clip.uri, question="Which note?", task="note",
            answer=str(clip.labels["note"]), choices=("low", "middle", "high", "top"),
            clip_id=clip.clip_id, duration=clip.duration,
        )
        for clip in toy_data.clips[2:34]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runner(runs: Callable[[str], Path]) -> QuestionRunner:
    return QuestionRunner(runs("qwen2_audio"), batch_size=4, limits=TokenLimits(answer=6))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_evaluated_in_bfloat16(
    family: str, runs: Callable[[str], Path], questions: list[Question], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs(family), run, ignore=shutil.ignore_patterns("checkpoint-*"))
    recipe = run / "recipe.yaml"
    text = recipe.read_text()
    assert "dtype: float32" in text
    recipe.write_text(text.replace("dtype: float32", "dtype: bfloat16"))
    limits = TokenLimits(answer=3)
    tower = QuestionRunner(run).trained.student
    parameters = tower.backbone.audio_tower(tower.base).parameters()
    assert next(parameters).dtype == torch.bfloat16
    report = evaluate(run, questions[:6], "notes", limits=limits)
    assert report["questions"] == 6
    report = ablate(run, questions[:4], resamples=5, limits=limits)
    assert len(report["conditions"]) == len(CONDITIONS)
    result = probe([run], questions, num_spans=4)
    assert set(result[str(run)]["targets"]["note"]["scores"]) == {"audio", "thinking", "decision"}
    assert not (run / "probes.states").exists()


@pytest.mark.parametrize("name", ["other clip", "other audio", "intact", "zero"])
def test_batch_size_does_not_change_answers(
    name: str, runner: QuestionRunner, questions: list[Question]
) -> None:
    from student.evaluation.analysis.ablate import Setting, _ask

    (condition,) = [each for each in CONDITIONS if each.name == name]
    partners = find_partners(questions[:6])
    setting = Setting(runner=runner, questions=questions[:6], partners=partners, first_layer=0)
    replies = _ask(setting, condition)
    runner.batch_size = 1
    try:
        assert _ask(setting, condition) == replies
    finally:
        runner.batch_size = 4


def test_states_of_another_clip_come_from_another_clip(
    runner: QuestionRunner, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a batch of one, a partner within the batch would be the clip itself."""
    from student.evaluation.analysis import ablate as module

    seen = []

    def record_inputs(
        student: Any, inputs: Any, kind: str, *, source: Any, first_layer: int
    ) -> Any:
        del student, kind, first_layer
        seen.append((inputs["input_features"], source["input_features"]))
        return progress("", 1, "")

    monkeypatch.setattr(module, "replaced", record_inputs)
    monkeypatch.setattr(runner, "batch_size", 1)
    (condition,) = [each for each in CONDITIONS if each.name == "other clip"]
    chosen = questions[:5]
    setting = module.Setting(
        runner=runner, questions=chosen, partners=find_partners(chosen), first_layer=0
    )
    module._ask(setting, condition)
    assert len(seen) == 5
    assert not any(torch.equal(own, other) for own, other in seen)


def test_generation_config_of_the_checkpoint_is_ignored(
    runner: QuestionRunner, questions: list[Question]
) -> None:
    replies = runner.replies(questions[:4])
    config = runner.trained.student.base.generation_config
    own = config.to_dict()
    changes: list[dict[str, Any]] = [
        {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1},
        {"do_sample": True, "temperature": 5.0, "top_k": 3},
        {"forced_eos_token_id": 7, "begin_suppress_tokens": list(range(300))},
        {"min_new_tokens": 60, "num_beams": 3, "length_penalty": 5.0},
        {"bad_words_ids": [[number] for number in range(300)], "guidance_scale": 3.0},
    ]
    for change in changes:
        config.update(**change)
        try:
            assert runner.replies(questions[:4]) == replies, change
        finally:
            config.update(**own)


def test_prompts_are_prepared_lazily_within_a_memory_limit(
    runner: QuestionRunner, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_runner = QuestionRunner(runner.path, batch_size=4)
    size = new_runner.prompt(questions[0]).num_bytes
    new_runner = QuestionRunner(runner.path, batch_size=4, cache_bytes=6 * size)
    loaded = []
    load = new_runner.trained.load_audio
    monkeypatch.setattr(
        new_runner.trained, "load_audio", lambda clip: (loaded.append(clip), load(clip))[1]
    )
    batches = new_runner.batches(questions)
    assert not loaded
    next(batches)
    assert len(loaded) == 4, "more than the first batch was loaded"
    for _ in batches:
        assert new_runner._kept_bytes <= 6 * size
        assert (
            sum(prompt.num_bytes for prompt in new_runner._prompts.values())
            == new_runner._kept_bytes
        )
    assert len(loaded) == len(questions)


def test_truncated_replies_are_counted(
    runs: Callable[[str], Path], questions: list[Question], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs("qwen2_audio")
    report = evaluate(run, questions[:4], "cut", limits=TokenLimits(answer=1))
    assert report["tasks"]["note"]["cut"] == 1
    assert report["max_tokens"] == {"answer": 1, "transcription": 256}
    assert "4 of 4 replies were truncated at the token limit; see --max-tokens" in " ".join(
        capsys.readouterr().err.split()
    )
    rows = (run / "eval" / "cut.answers.jsonl").read_text().splitlines()
    assert all(json.loads(row)["cut"] for row in rows)


def test_question_about_an_unreadable_recording_is_skipped(
    runs: Callable[[str], Path], questions: list[Question], tmp_path: Path
) -> None:
    run = runs("qwen2_audio")
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    bad = [replace(questions[0], id="broken", audio=str(broken)),
           replace(questions[0], id="gone", audio=str(tmp_path / "gone.wav"))]  # fmt: skip
    limits = TokenLimits(answer=3)
    report = evaluate(run, [*bad, *questions[:4]], "bad", limits=limits)
    assert (report["questions"], report["unreadable"]) == (4, 2)
    assert ablate(run, [*bad, *questions[:4]], resamples=5, limits=limits)["questions"] == 4
    with pytest.raises(UserError, match="none of 2 questions can be read"):
        evaluate(run, bad, "none", limits=limits)


def show_progress(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=80, color_system=None)
    monkeypatch.setattr(progress_module, "messages", console)
    with progress("answers of run/coat-0", 40, "questions") as advance:
        for _ in range(4):
            advance(10)
            if terminal:
                console.file.flush()
    return stream.getvalue()


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    text = show_progress(True, monkeypatch)
    assert "answers of run/coat-0" in text
    assert "40/40" in text
    assert "questions" in text


def test_progress_in_a_log_file_follows_the_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([0.0, 0.0, 5.0, 12.0, 12.0, 29.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(seconds))
    text = show_progress(False, monkeypatch)
    assert text == "answers of run/coat-0: 20 of 40 questions, about 1 min left\n"
