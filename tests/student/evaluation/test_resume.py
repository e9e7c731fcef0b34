"""Tests that a killed evaluation resumes with its stored replies and ends with the same result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manifests.errors import UserError
from student.evaluation import commands
from student.evaluation.analysis import probe as probe_module
from student.evaluation.analysis import states as states_module
from student.evaluation.analysis.ablate import CONDITIONS, ablate
from student.evaluation.analysis.probe import probe
from student.evaluation.answering import QuestionRunner, Reply, TokenLimits
from student.evaluation.evaluate import evaluate
from student.evaluation.journal import build_identity, open_journal
from student.evaluation.question_files import read_questions
from student.evaluation.questions import Question
from student.evaluation.selection import check_numbers, select
from tests.student.evaluation.helpers import write_questions

LIMITS = TokenLimits(answer=3, transcription=3)
START_LIMIT_S = 900


class Killed(Exception):
    """Stands for a kill within one process."""


@pytest.fixture
def run(runs: Callable[[str], Path], tmp_path: Path) -> Path:
    """Copies a finished run without its results."""
    ignored = shutil.ignore_patterns("checkpoint-*", "eval", "*.png", "ablation*", "probes*")
    return Path(shutil.copytree(runs("qwen2_audio"), tmp_path / "run", ignore=ignored))


@pytest.fixture
def base(checkpoints: Callable[[str], str], tmp_path: Path) -> Path:
    """Copies a plain checkpoint."""
    return Path(shutil.copytree(checkpoints("qwen2_audio"), tmp_path / "base"))


@pytest.fixture
def questions(toy_data: Any, tmp_path: Path) -> list[Question]:
    """Writes questions about the notes of 32 clips to a file, and reads them."""
    listed = [
        Question(
            id=clip.clip_id, kind="label", audio=clip.uri, question="Which note?", task="note",
            answer=str(clip.labels["note"]), choices=("low", "middle", "high", "top"),
            clip_id=clip.clip_id, duration=clip.duration,
        )
        for clip in toy_data.clips[2:34]
    ]  # fmt: skip
    write_questions(tmp_path / "notes.jsonl", listed)
    return read_questions(tmp_path / "notes.jsonl")


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the number of prompts of every batch for which a student generates replies."""
    sizes: list[int] = []
    replies = QuestionRunner.batches

    def counted(self: QuestionRunner, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in replies(self, *args, **kwargs):
            sizes.append(len(batch.places))
            yield batch

    monkeypatch.setattr(QuestionRunner, "batches", counted)
    return sizes


def fail_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the journal fail after a number of lines; returns a function that restores it."""
    from student.evaluation import journal

    append, count = journal.Journal.append, iter(range(batches))

    def failing(self: Any, part: str, entry: Any) -> None:
        if next(count, None) is None:
            raise Killed
        append(self, part, entry)

    monkeypatch.setattr(journal.Journal, "append", failing)
    return lambda: monkeypatch.setattr(journal.Journal, "append", append)


def results(run: Path, name: str = "notes") -> tuple[str, dict]:
    """Returns the answers and the scores of an evaluation."""
    scores = json.loads((run / "eval" / f"{name}.json").read_text())
    return (run / "eval" / f"{name}.answers.jsonl").read_text(), scores


def test_killed_process_loses_at_most_one_batch(
    run: Path, base: Path, questions: list[Question], tmp_path: Path, batch_sizes: list[int]
) -> None:
    """Two students in one command; the process is killed in the middle of the second."""
    words = [str(run), str(base), "--questions", str(tmp_path / "notes.jsonl"),
             "--batch-size", "2", "--max-tokens", "3"]  # fmt: skip
    unfinished = run / "eval" / "notes.part.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "student.cli", "eval", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if unfinished.is_file() and unfinished.read_bytes().count(b"\n") > 3:
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL, "the process ended before it was killed"
    kept = sum(len(json.loads(line)[1]) for line in unfinished.read_text().splitlines()[1:-1])
    assert 4 <= kept < len(questions), "the evaluation was already complete"
    assert not (run / "eval" / "notes.json").exists()
    with unfinished.open("ab") as file:
        file.write(b'["replies", {"clip')  # as a kill may truncate a line

    before = results(base)
    commands.eval_runs(
        words[:2], questions, "notes", batch_size=2, blind=False, limits=TokenLimits(answer=3)
    )
    assert results(base) == before, "the finished student is not evaluated again"
    assert sum(batch_sizes) <= len(questions) - kept
    assert not unfinished.exists()
    resumed = results(run)
    shutil.rmtree(run / "eval")
    evaluate(run, questions, "notes", batch_size=2, limits=TokenLimits(answer=3))
    assert results(run) == resumed


def test_finished_results_are_used_again_without_the_student(
    run: Path, questions: list[Question], batch_sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(run, questions, "notes", limits=LIMITS)
    batch_sizes.clear()
    monkeypatch.setattr("student.evaluation.evaluate.QuestionRunner", None)
    assert evaluate(run, questions, "notes", limits=LIMITS) == first
    assert not batch_sizes


@pytest.mark.parametrize("change", ["limits", "blind", "weights", "recipe"])
def test_replies_of_another_evaluation_are_discarded(
    change: str, run: Path, questions: list[Question], batch_sizes: list[int],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    restore = fail_after(3, monkeypatch)
    with pytest.raises(Killed):
        evaluate(run, questions, "notes", batch_size=2, limits=LIMITS)
    restore()
    batch_sizes.clear()
    limits = TokenLimits(answer=4) if change == "limits" else LIMITS
    changed_file = {"weights": run / "joint" / "student.safetensors", "recipe": run / "recipe.yaml"}
    if change in changed_file:
        os.utime(changed_file[change], ns=(1, 1))
    evaluate(run, questions, "notes", batch_size=2, limits=limits, blind=change == "blind")
    assert sum(batch_sizes) == len(questions)
    assert "are discarded; it had another" in capsys.readouterr().err


def test_unfinished_replies_to_other_questions_are_not_discarded(
    run: Path, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = fail_after(3, monkeypatch)
    with pytest.raises(Killed):
        evaluate(run, questions, "notes", batch_size=2, limits=LIMITS)
    restore()
    with pytest.raises(UserError, match="replies to other questions than these 31"):
        evaluate(run, questions[1:], "notes", limits=LIMITS)


def test_unreadable_audio_is_tried_again(
    run: Path, questions: list[Question], toy_data: Any, tmp_path: Path, batch_sizes: list[int]
) -> None:
    absent = tmp_path / "absent.wav"
    changed_questions = [replace(questions[0], audio=str(absent)), *questions[1:6]]
    assert evaluate(run, changed_questions, "notes", limits=LIMITS)["unreadable"] == 1
    shutil.copy(questions[0].audio, absent)
    batch_sizes.clear()
    report = evaluate(run, changed_questions, "notes", limits=LIMITS)
    assert (report["unreadable"], report["questions"], batch_sizes) == (0, 6, [1])


def test_killed_ablation_resumes_with_its_replies(
    run: Path, questions: list[Question], batch_sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "resamples": 5, "limits": LIMITS}
    batches = 3
    total = len(CONDITIONS) * batches
    restore = fail_after(total // 2, monkeypatch)
    with pytest.raises(Killed):
        ablate(run, questions[:12], **settings)
    restore()
    batch_sizes.clear()
    resumed = ablate(run, questions[:12], **settings)
    assert len(batch_sizes) == total - total // 2
    assert not (run / "ablation.part.jsonl").exists()
    batch_sizes.clear()
    assert ablate(run, questions[:12], **settings) == resumed
    assert not batch_sizes, "finished results are used again"
    (run / "ablation.json").unlink()
    assert ablate(run, questions[:12], **settings) == resumed
    other = ablate(run, questions[:12], **(settings | {"first_layer": 1}))
    assert other["layers"] == [1, 2]


def test_killed_probes_resume_with_states_and_scores(
    run: Path, toy_data: Any, questions: list[Question], batch_sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(states_module, "SECONDS_BETWEEN_RECORDS", 0.0)
    settings: dict[str, Any] = {"caches": [str(toy_data.cache)], "num_spans": 4, "batch_size": 8}
    restore = fail_after(2, monkeypatch)
    with pytest.raises(Killed):
        probe([run], questions, **settings)
    restore()
    assert sum(batch_sizes) == 24
    batch_sizes.clear()
    restore = fail_after(2 + 5, monkeypatch)  # the last batches, and five of twelve layers
    with pytest.raises(Killed):
        probe([run], questions, **settings)
    restore()
    assert sum(batch_sizes) == 16
    batch_sizes.clear()
    scored = []
    score = probe_module.score
    monkeypatch.setattr(probe_module, "score", lambda *args: (scored.append(1), score(*args))[1])
    resumed = probe([run], questions, **settings)[str(run)]
    assert (sum(batch_sizes), len(scored)) == (0, 7)
    assert not list(run.glob("probes.*.jsonl"))
    assert not (run / "probes.states").exists()
    assert probe([run], questions, **settings)[str(run)] == resumed
    assert (sum(batch_sizes), len(scored)) == (0, 7)
    (run / "probes.json").unlink()
    assert probe([run], questions, **settings)[str(run)] == resumed
    assert (sum(batch_sizes), len(scored)) == (32, 19)


def test_probes_with_other_groups_are_computed_again(
    run: Path, questions: list[Question], batch_sizes: list[int]
) -> None:
    """The split into fitting and scoring depends on the groups."""
    first = probe([run], questions, num_spans=4)[str(run)]
    batch_sizes.clear()
    grouped = [
        replace(question, group=f"g{max(number, 1)}") for number, question in enumerate(questions)
    ]
    second = probe([run], grouped, num_spans=4)[str(run)]
    assert sum(batch_sizes) == len(questions)
    assert second["targets"] != first["targets"]


def test_clip_that_cannot_be_read_is_left_out_of_probes(
    run: Path, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    intact = probe([run], questions, num_spans=4)[str(run)]
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    broken = replace(questions[0], id="bad", clip_id=None, audio=str(bad))
    result = probe([run], [*questions, broken], num_spans=4)[str(run)]
    assert result["clips"] == intact["clips"]
    assert result["targets"] == intact["targets"]
    assert f"1 clip is left out: {bad} cannot be read" in capsys.readouterr().out


def test_states_that_were_deleted_are_collected_again(
    run: Path, questions: list[Question], batch_sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_module, "SECONDS_BETWEEN_RECORDS", 0.0)
    restore = fail_after(3, monkeypatch)
    with pytest.raises(Killed):
        probe([run], questions, num_spans=4, batch_size=8)
    restore()
    next((run / "probes.states").glob("audio-1.f16")).unlink()
    batch_sizes.clear()
    probe([run], questions, num_spans=4, batch_size=8)
    assert sum(batch_sizes) == len(questions)


def test_two_processes_do_not_write_one_journal(run: Path) -> None:
    identity = build_identity(run, "x", blind=False)
    with (
        open_journal(run / "eval" / "x.part.jsonl", identity),
        pytest.raises(UserError, match="another process is writing"),
        open_journal(run / "eval" / "x.part.jsonl", identity),
    ):
        pass


def test_journal_reads_the_replies_that_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.part.jsonl"
    replies = {"é\u2028": Reply(text='"\n\u2028', is_cut=True), "b": Reply(text="")}
    with suppress(Killed), open_journal(path, {"questions": "q"}) as journal:
        journal.keep_replies("part", replies)
        raise Killed
    with path.open("ab") as file:
        file.write(b'["part", {"c": ["tr')
    with suppress(Killed), open_journal(path, {"questions": "q"}) as journal:
        assert journal.replies("part") == replies
        journal.keep_replies("part", {"c": Reply(text="c")})
        raise Killed
    with open_journal(path, {"questions": "q"}) as journal:
        assert journal.replies("part") == replies | {"c": Reply(text="c")}
        assert not journal.replies("other")
    assert not path.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"limit": -1}, "--limit must be at least 0"), ({"batch_size": 0}, "--batch-size must be"),
     ({"max_tokens": 0}, "--max-tokens must be at least 1")],
)  # fmt: skip
def test_numbers_out_of_range_are_rejected(changed: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_numbers(**{"limit": 0, "batch_size": 1} | changed)


def test_limited_selection_is_spread_over_the_file_and_named(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "question": "?", "answer": str(n), "id": n} for n in range(10)]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, part = select("run", str(path), limit=10), select("run", str(path), limit=3)
    assert (len(whole.questions), whole.name, whole.suffix) == (10, "own", "")
    assert [question.answer for question in part.questions] == ["0", "3", "6"]
    assert (part.name, part.suffix) == ("own", "-limit3")
    with pytest.raises(UserError, match="there is no folder"):
        select(str(tmp_path / "absent"), None)


@pytest.mark.parametrize("name", ["a/b", "../../recipe", "", ".hidden", "x" * 300])
def test_invalid_file_names_are_rejected(name: str, tmp_path: Path) -> None:
    question = Question(id="1", kind="label", audio="a.wav", question="?", answer="x")
    with pytest.raises(UserError, match="cannot be a file name"):
        evaluate(tmp_path, [question], name)


def test_folders_without_a_run_get_no_files(tmp_path: Path) -> None:
    question = Question(id="1", kind="label", audio="a.wav", question="?", answer="x")
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="is not a run"):
            evaluate(folder, [question], "notes")
    assert not list(tmp_path.iterdir())
