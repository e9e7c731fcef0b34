"""Tests for question files, held-out examples, and files of results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from manifests.errors import UserError
from student.config import DataConfig, ModelConfig, Recipe, StageConfig, TaskConfig
from student.evaluation.answering import Reply
from student.evaluation.comparison import common_answers, group_runs, shared_seeds, without_partner
from student.evaluation.partners import find_partners, swap_audio
from student.evaluation.question_files import (
    KEYS,
    questions_of_run,
    read_questions,
)
from student.evaluation.questions import Question, check_questions, digest, find_answer
from student.evaluation.results import (
    check_name,
    finite,
    read_answers,
    write_analysis,
    write_answers,
    write_scores,
)
from student.evaluation.scoring.scores import read_reply, score_answers
from student.recipe_files import save_recipe
from tests.student.evaluation.helpers import write_questions


def make_question(number: int = 0, **changes: Any) -> Question:
    fields: dict[str, Any] = {
        "id": str(number), "kind": "label", "audio": f"{number}.wav", "question": "Which?",
        "answer": "dog", "choices": ("dog", "cat"),
    }  # fmt: skip
    return Question(**(fields | changes))


def write_rows(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


ROW = {"audio": "a.wav", "question": "Which?", "answer": "dog"}


def test_id_and_kind_have_defaults(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "q.jsonl", ROW, ROW | {"choices": ["cat", "dog"]})
    first, second = read_questions(path)
    assert (first.id, first.kind, first.task) == ("1", "label", "all (label)")
    assert (second.id, second.kind, second.choices) == ("2", "choice", ("cat", "dog"))


@pytest.mark.parametrize("audio", ["s3://bucket/a.wav", "file:///data/a.wav", "gs://b/c.flac"])
def test_addresses_with_a_scheme_are_kept(audio: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "q.jsonl", ROW | {"audio": audio})
    (parsed,) = read_questions(path)
    assert parsed.audio == parsed.clip.uri == audio
    write_questions(tmp_path / "copy.jsonl", [parsed])
    assert read_questions(tmp_path / "copy.jsonl")[0].clip.uri == audio


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": "a.wav", "answer": "x"}, "it lacks question; keys are id, kind, audio"),
        (ROW | {"choises": ["a"]}, "it has choises; keys are"),
        (ROW | {"choices": ["Dog", "dog "]}, "'Dog' and 'dog ' differ only in case"),
        (ROW | {"choices": ["caf\u00e9", "cafe\u0301"]}, "differ only in case"),
        (
            ROW | {"choices": ["cat", "cow"]},
            "answer 'dog' is not one of its choices, (A) 'cat', (B) 'cow'",
        ),
        (ROW | {"kind": "choice"}, "has no choices to offer"),
        (ROW | {"kind": "open"}, "`kind` must be one of"),
        (ROW | {"choices": "dog"}, "`choices` must be a list"),
    ],
)
def test_invalid_line_raises_a_one_line_error(row: dict, message: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "q.jsonl", ROW, row)
    with pytest.raises(UserError, match=r"line 2: ") as caught:
        read_questions(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_invalid_json_raises_an_error_with_its_position(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "q.jsonl", ROW)
    path.write_text(path.read_text() + '{"audio": "a.wav", "question": "Wh')
    with pytest.raises(UserError, match=r"line 2: invalid JSON \(Unterminated string .* 32\)"):
        read_questions(path)


@pytest.mark.parametrize(
    ("answer", "choices", "expected"),
    [
        ("dog", ("dog", "cat"), "dog"),
        ("Dog", ("dog", "cat"), "dog"),
        ("B", ("dog", "cat"), "cat"),
        ("b", ("dog", "cat"), "cat"),
        ("(B)", ("dog", "cat"), "cat"),
        ("(B) cat", ("dog", "cat"), "cat"),
        ("B. cat", ("dog", "cat"), "cat"),
        ("A", ("B", "A"), "A"),  # texts come before letters
        ("e\u0301te\u0301", ("\u00e9t\u00e9", "hiver"), "\u00e9t\u00e9"),
        ("2", ("1", "2"), "2"),
        ("(A) dog", ("cat", "dog"), None),
        ("bird", ("dog", "cat"), None),
    ],
)
def test_find_answer_accepts_texts_and_letters(
    answer: str, choices: tuple[str, ...], expected: str | None
) -> None:
    assert find_answer(answer, choices) == expected


def test_numbers_are_read_as_texts(tmp_path: Path) -> None:
    (parsed,) = read_questions(
        write_rows(tmp_path / "q.jsonl", ROW | {"id": 7, "choices": [1, 2], "answer": 2})
    )
    assert (parsed.id, parsed.choices, parsed.answer) == ("7", ("1", "2"), "2")
    assert read_reply(parsed, "It is 2.").right


def test_task_with_two_kinds_is_split_into_two_tasks() -> None:
    words = make_question(1, kind="transcription", choices=(), answer="a b")
    checked = check_questions([make_question(0), words])
    assert [each.task for each in checked] == ["all (label)", "all (transcription)"]
    with pytest.raises(UserError, match="ids are given to several questions: '0'"):
        check_questions([make_question(0), make_question(0)])


def held_out_row(number: int, text: str, answer: str, **more: Any) -> dict:
    clip = {"clip_id": f"c{number}", "uri": f"/a/{number}.wav", "offset": 0.0, "duration": 1.0}
    content = [{"type": "audio", "audio": f"c{number}"}, {"type": "text", "text": text}]
    clips = [clip | {"text": more.pop("spoken", None), "labels": {}}]
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "answer": answer, "clips": clips, **more}


TASKS = [
    TaskConfig(questions=["What is said?", "Transcribe."], answer=["text"]),
    TaskConfig(questions=["Which animal?", "Name it."], answer=["labels.animal"], choices=2),
    TaskConfig(questions=["Which word?"], answer=["labels.word"]),
]


def run_folder(folder: Path, *rows: dict, arm: Any = "coat", seed: int = 0, **changes: Any) -> Path:
    write_rows(folder / "held_out.jsonl", *rows)
    recipe = Recipe(
        model=ModelConfig(build="tiny"), joint=StageConfig(train="full"), arm=arm, seed=seed,
        data=DataConfig(tasks=TASKS), **changes,
    )  # fmt: skip
    save_recipe(recipe, folder / "recipe.yaml")
    return folder


OLD = [
    held_out_row(0, "What is said?", "hello there", spoken="hello there"),
    held_out_row(1, "Transcribe.", "good day", spoken="good day"),
    held_out_row(2, "Which animal?\n(A) dog\n(B) cat", "(B) cat"),
    held_out_row(3, "Name it.\n(A) cow\n(B) dog", "(A) cow"),
    # A label that equals the clip's text is a label where the recipe says so.
    held_out_row(4, "Which word?", "dog", spoken="dog"),
]


def test_held_out_choices_are_scored_as_choices(tmp_path: Path) -> None:
    questions = questions_of_run(run_folder(tmp_path, *OLD))
    assert [each.kind for each in questions] == [
        "transcription", "transcription", "choice", "choice", "label",
    ]  # fmt: skip
    assert [each.task for each in questions] == [
        "What is said?", "What is said?", "Which animal?", "Which animal?", "Which word?",
    ]  # fmt: skip
    assert questions[2].text == "Which animal?\n(A) dog\n(B) cat"
    for reply in ("(B)", "B", "cat", "(B) cat"):
        assert read_reply(questions[2], reply).right, reply
    answers = [read_reply(questions[2], "B"), read_reply(questions[3], "B")]
    (task,) = score_answers([answers], resamples=10)["tasks"].values()
    assert (task["n"], task["score"], task["chance"], task["majority"]) == (2, 0.5, 0.5, 0.5)


def test_current_held_out_files_store_the_kind(tmp_path: Path) -> None:
    row = held_out_row(
        0, "Name it.\n(A) dog\n(B) cat", "(B) cat",
        id="c0/1", task="animals", kind="choice", question="Name it.", choices=["dog", "cat"],
    )  # fmt: skip
    path = write_rows(tmp_path / "held_out.jsonl", row)
    (parsed,) = read_questions(path)
    assert (parsed.id, parsed.task, parsed.kind, parsed.answer) == (
        "c0/1",
        "animals",
        "choice",
        "cat",
    )
    assert parsed.text == "Name it.\n(A) dog\n(B) cat"


def test_conversations_that_are_left_out_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = held_out_row(0, "Name it.", "dog")
    several = held_out_row(1, "And then?", "cat")
    several["messages"] = several["messages"] * 3
    path = write_rows(tmp_path / "held_out.jsonl", kept, several)
    assert len(read_questions(path)) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "left out 1 conversation of several turns or clips" in printed


def test_label_that_equals_the_text_is_a_label(tmp_path: Path) -> None:
    row = held_out_row(
        0, "Which word?", "dog", spoken="dog", kind="transcription", task="Which word?"
    )
    (parsed,) = questions_of_run(run_folder(tmp_path, row))
    assert parsed.kind == "label"


def test_partners_are_always_other_recordings() -> None:
    same = [make_question(number, answer="dog") for number in range(3)]
    partners = find_partners(same)
    assert all(other != place for place, other in enumerate(partners.places))
    assert partners.num_untrue == 3
    # Two questions about one file cannot be partners.
    pair = [
        make_question(0),
        make_question(1, audio="0.wav", answer="cat"),
        make_question(2, answer="cat"),
    ]
    assert find_partners(pair).places[0] == 2
    assert find_partners(pair).num_untrue == 1
    for original, swapped in zip(pair, swap_audio(pair, find_partners(pair)), strict=True):
        assert swapped.audio != original.audio
    with pytest.raises(UserError, match="all questions are about one recording"):
        find_partners([make_question(0), make_question(1, audio="0.wav")])


def test_results_of_other_questions_are_not_overwritten(tmp_path: Path) -> None:
    questions = [make_question(0), make_question(1)]
    write_answers(tmp_path, "q", questions, [Reply(text="dog"), Reply(text="cat", is_cut=True)])
    write_scores(tmp_path, "q", {"digest": digest(questions)})
    check_name(tmp_path, "q", questions)
    check_name(tmp_path, "q", list(reversed(questions)))
    changed = [make_question(0), make_question(1, answer="cat")]
    with pytest.raises(UserError, match=r"other questions.*--name, or delete that file") as caught:
        check_name(tmp_path, "q", changed)
    named = Path(str(caught.value).partition(" contains ")[0])
    kept = named.read_bytes()
    named.unlink()
    check_name(tmp_path, "q", changed)
    named.write_bytes(kept)
    # Files of an earlier version have no hash.
    write_scores(tmp_path, "q", {})
    check_name(tmp_path, "q", questions)
    with pytest.raises(UserError, match="other questions"):
        check_name(tmp_path, "q", questions[:1])


def test_question_about_an_unreadable_recording_is_skipped(tmp_path: Path) -> None:
    questions = [make_question(0), make_question(1)]
    replies = [Reply(text="dog", is_cut=True), Reply(failure="1.wav cannot be read")]
    (answer,) = write_answers(tmp_path, "q", questions, replies)
    assert answer.question == questions[0]
    assert read_answers(tmp_path, questions, "q") == [answer]
    assert answer.cut
    assert score_answers([[answer]])["tasks"]["all"]["cut"] == 1
    other = [read_reply(each, "dog") for each in questions]
    assert common_answers({"a": [[answer]], "b": [other]})["b"] == [[other[0]]]


def test_runs_of_one_arm_and_seed_become_separate_columns(tmp_path: Path) -> None:
    runs = {
        name: str(run_folder(tmp_path / name, arm=arm, seed=seed, distill_weight=weight))
        for name, arm, seed, weight in (
            ("coat-0", "coat", 0, 1.0),
            ("coat-1", "coat", 1, 1.0),
            ("heavy", "coat", 0, 2.0),
            ("sft-0", "sft", 0, 1.0),
        )
    }
    plain = [str(tmp_path / "one"), str(tmp_path / "two")]
    columns = group_runs([runs["coat-0"], runs["coat-1"], runs["sft-0"], runs["coat-0"]])
    assert [(column.name, len(column.runs)) for column in columns] == [("sft", 1), ("coat", 2)]
    assert shared_seeds(columns) == [0]
    assert without_partner(columns, [0]) == [runs["coat-1"]]
    columns = group_runs([*runs.values(), *plain])
    assert [column.name for column in columns] == [
        "checkpoint (one)", "checkpoint (two)", "sft", "coat (coat-0)", "coat (heavy)",
    ]  # fmt: skip
    assert sum(len(column.runs) for column in columns) == 6
    twice = group_runs([runs["coat-0"], str(run_folder(tmp_path / "again"))])
    assert [column.name for column in twice] == ["coat (again)", "coat (coat-0)"] or len(twice) == 2


def test_columns_of_plain_checkpoints_are_the_base_or_named_by_folder(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "coat-0")
    (run / "base").mkdir()
    columns = group_runs([str(run), str(tmp_path / "student"), str(run / "base")])
    assert [(column.name, column.arm) for column in columns] == [
        ("checkpoint (student)", "base"), ("base", "base"), ("coat", "coat"),
    ]  # fmt: skip


def test_documentation_of_the_question_file_matches_the_code(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "evaluate.md").read_text("utf-8")
    (lines,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "q.jsonl").write_text(lines, encoding="utf-8")
    assert [each.kind for each in read_questions(tmp_path / "q.jsonl")] == [
        "choice", "transcription", "label",
    ]  # fmt: skip
    table = page[page.index("| key |") : page.index("The `held_out.jsonl` of a run")]
    keys = {
        key for row in table.splitlines()[2:] if row.startswith("| `")
        for key in re.findall(r"`(\w+)`", row.split("|")[1])
    }  # fmt: skip
    assert keys == set(KEYS)


def test_finite_replaces_undefined_numbers_by_none() -> None:
    report = finite({"a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": 2, "e": "x"}})
    assert json.loads(json.dumps(report, allow_nan=False)) == {
        "a": None, "b": [None, 1.0], "c": {"d": 2, "e": "x"},
    }  # fmt: skip


def test_analysis_of_other_questions_is_renamed_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ablation.json").write_text('{"arm": "coat"}')  # of an earlier version
    for digest_ in ("aa", "aa", "bb"):
        write_analysis(tmp_path, "ablation", {"digest": digest_})
    assert {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()} == {
        "ablation-earlier.json": {"arm": "coat"},
        "ablation-aa.json": {"digest": "aa"},
        "ablation.json": {"digest": "bb"},
    }
    assert capsys.readouterr().err.count("was computed from other questions; it is kept as") == 2


def test_separators_inside_strings_are_no_line_ends(tmp_path: Path) -> None:
    """A reply with such a character ended an evaluation after its last question."""
    question = Question(
        id="1\u2028", kind="label", audio="a.wav", question="a\u0085b\u2029", answer="c\x1c"
    )
    write_questions(tmp_path / "q.jsonl", [question])
    assert read_questions(tmp_path / "q.jsonl")[0].question == question.question
    replies = [Reply(text="d\u2028e\u0085")]
    write_answers(tmp_path, "q", [question], replies)
    assert [answer.reply for answer in read_answers(tmp_path, [question], "q")] == [
        "d\u2028e\u0085"
    ]


def test_files_of_another_encoding_are_reported_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    row = '{"audio": "a.wav", "question": "?", "answer": "%s"}\n'
    path.write_bytes((row % "né").encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8"):
        read_questions(path)
    path.write_text(row % "né", encoding="utf-8-sig")
    assert read_questions(path)[0].answer == "né"
