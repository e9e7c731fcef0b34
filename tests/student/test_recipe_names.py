"""Tests that old names of recipe fields work with a notice, and that wrong names raise an error."""

from __future__ import annotations

import builtins
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.console import make_parser
from manifests.errors import UserError
from student.cli import train
from student.recipe_files import load_recipe, parse_recipe
from student.recipe_names import settle_arguments
from student.run_options import TrainOptions

OLD = """\
model: {build: tiny, remember_audio: true}
align: {train: rows, rows_lr: 0.5}
"""


def run_student(*words: str) -> tuple[int, str, str]:
    """Runs a command.

    Returns:
        The exit code, the program's lines on stderr, and the imported frameworks.
    """
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "student.cli", *words],
        capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    own = "\n".join(line for line in lines if not line.startswith("import time:"))
    imported = {line.rpartition("|")[2].strip() for line in lines}
    return done.returncode, own, " ".join(sorted(imported & {"torch", "transformers"}))


def test_help_and_wrong_recipes_import_no_framework(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {build: tiny}\njoint: {epoch: 3}\n")
    assert run_student("--help") == (0, "", "")
    assert run_student("train", "--help") == (0, "", "")
    start = time.monotonic()
    code, message, imported = run_student(
        "train", "--config", str(recipe), "--corpus", "c", "--cache", "k",
        "--out", str(tmp_path / "o"),
    )  # fmt: skip
    assert (code, imported) == (2, "")
    assert "there is no field joint.epoch; did you mean joint.epochs?" in message
    assert len(message.splitlines()) == 1
    assert time.monotonic() - start < 20, "it takes a second on an idle machine"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--joint.learning-rate", "1", "unknown option --joint.learning-rate; see the fields with"),
        ("--joint.batch-size", "many", "--joint.batch-size: expected a whole number, found 'many'"),
        ("--model.build", "tyni", "--model.build: expected one of 'tiny', 'small', found 'tyni'"),
    ],
)
def test_wrong_option_of_an_optional_part_is_named_as_typed(
    option: str, value: str, message: str
) -> None:
    """These were messages of the parser about its types."""
    words = ["train", "--config", "student/recipes/demo.yaml", "--corpus", "c", "--cache", "k"]
    code, error, _ = run_student(*words, "--out", "o", option, value)
    assert code == 2
    assert f"coat-student: error: {message}" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {build: tiny}\nstreams: {asr.encoder: {wieght: 2}}\n",
         "streams.asr.encoder.wieght; did you mean streams.asr.encoder.weight"),
        ("model: {build: tiny}\ndata: {tasks: [{question: [a]}]}\n",
         "data.tasks.0.question; did you mean data.tasks.0.questions"),
        ("model: {build: tiny}\nzebra: 1\n", "there is no field zebra "),
    ],
)  # fmt: skip
def test_wrong_key_raises_an_error_with_its_path_and_the_nearest_key(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("choices: one", r"data\.tasks\.1\.choices: expected a whole number, found 'one'"),
        ("choices: 1", r"data\.tasks\.1\.choices must be 0, or 2 to 26; found 1"),
        ("weight: heavy", r"data\.tasks\.1\.weight: expected a number, found 'heavy'"),
        ("weight: 0", r"data\.tasks\.1\.weight must be above 0; found 0"),
        ("questions: How?", r"data\.tasks\.1\.questions: expected a list, such as \[How\?\]"),
        ("answer: [kind]", r"data\.tasks\.1\.answer must be `text` or .*; found 'kind'"),
    ],
)
def test_wrong_value_raises_an_error_with_its_path(tmp_path: Path, task: str, message: str) -> None:
    """The number of the task used to be missing, and the value was called an option."""
    fields = {"questions": "[a]", "answer": "[text]"}
    fields |= dict([task.split(": ")])
    second = ", ".join(f"{name}: '{value}'" if value == "How?" else f"{name}: {value}"
                       for name, value in fields.items())  # fmt: skip
    first = "{questions: [a], answer: [text], weight: '1e-1', choices: '0'}"
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: {{build: tiny}}\ndata: {{tasks: [{first}, {{{second}}}]}}\n")
    with pytest.raises(UserError, match=rf"recipe\.yaml: {message}"):
        load_recipe(path)
    path.write_text(f"model: {{build: tiny}}\ndata: {{tasks: [{first}]}}\n")
    assert load_recipe(path).data.tasks[0].weight == 0.1


def test_old_names_of_fields_keep_working(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(OLD)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.model.cache_audio_tower
    assert recipe.align is not None
    assert (recipe.align.train, recipe.align.embeddings_lr) == ("embeddings", 0.5)
    message = " ".join(capsys.readouterr().err.split())
    assert "rows_lr is now called embeddings_lr" in message
    assert load_recipe(tmp_path / "recipe.yaml", quiet=True) == recipe
    assert not capsys.readouterr().err
    new = {"model": {"build": "tiny", "cache_audio_tower": True},
           "align": {"train": "embeddings", "embeddings_lr": 0.5}}  # fmt: skip
    assert parse_recipe(new) == recipe


def test_old_names_in_options_and_files_keep_working(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(OLD)
    words = ["train", "--config", str(tmp_path / "recipe.yaml"), "--joint.rows-lr=0.1",
             "--model.remember-audio", "true", "--out", "rows_lr"]  # fmt: skip
    settled = settle_arguments(words, {"train": TrainOptions})
    assert settled[2:] == [
        "--joint.embeddings_lr=0.1", "--model.cache_audio_tower", "true", "--out", "rows_lr"
    ]  # fmt: skip
    content = yaml.safe_load(settled[1].removeprefix("--config="))
    assert parse_recipe(content) == load_recipe(tmp_path / "recipe.yaml")
    assert settle_arguments(["eval", "--config", "x"], {"train": TrainOptions})[2] == "x"


@pytest.mark.parametrize("text", [OLD, OLD.replace("rows_lr", "embeddings_lr")])
@pytest.mark.parametrize("form", ["{}", "={}"])
def test_recipe_file_of_a_command_is_read_once(
    tmp_path: Path, text: str, form: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A renamed field is announced once, also by the code path of `train`."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    reads, right = [], builtins.open

    def count(file: Any, *given: Any, **more: Any) -> Any:
        reads.append(str(file))
        return right(file, *given, **more)

    monkeypatch.setattr(builtins, "open", count)
    monkeypatch.setattr(io, "open", count)
    option = ["--config", str(path)] if form == "{}" else [f"--config={path}"]
    words = ["train", *option, "--corpus", "c", "--out", "o"]
    parser, _ = make_parser("coat-student", {"train": train}, description="")
    parsed = parser.parse_args(settle_arguments(words, {"train": TrainOptions})).train
    assert parsed.align.embeddings_lr == 0.5
    assert reads.count(str(path)) == 1
    notice = " ".join(capsys.readouterr().err.split())
    assert notice.count("is now called embeddings_lr") == (text == OLD)


def test_recipes_are_utf8_in_any_locale(tmp_path: Path) -> None:
    """Under a Latin locale, Hindi could not be written, and French was misread."""
    code = f"""
import dataclasses, warnings
from pathlib import Path
from student.config import ModelConfig, Recipe, TaskConfig
from student.recipe_files import load_recipe, save_recipe
recipe = Recipe(model=ModelConfig(build="tiny"))
tasks = [TaskConfig(questions=["क्या सुना?", "Qu'a-t-on entendu à l'été ?"], answer=["text"])]
recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, tasks=tasks))
warnings.simplefilter("error", EncodingWarning)
save_recipe(recipe, Path({str(tmp_path / "r.yaml")!r}))
assert load_recipe({str(tmp_path / "r.yaml")!r}) == recipe
"""
    ran = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", code], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-1000:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint": {"batch_size": 0}}, "batch_size of a stage must be at least 1; found 0"),
        ({"joint": {"lr": -1.0}}, "lr of a stage must be at least 0; found -1.0"),
        ({"joint": {"epochs": -1}}, "epochs of a stage must be above 0"),
        ({"joint": {"warmup": 2}}, r"warmup of a stage must be in \[0, 1\)"),
        ({"heads": {"width": 0}}, "heads.width must be at least 1; found 0"),
        ({"seed": -1}, r"seed must be 0 to 2\^32 - 2; found -1"),
        ({"model": {"build": "tiny", "tiny": {"layers": 0}}}, "model.tiny.layers must be above 0"),
    ],
)
def test_values_out_of_bounds_are_reported_with_their_field(
    changes: dict[str, Any], message: str
) -> None:
    """Those of a stage ended in a traceback of jsonargparse."""
    with pytest.raises(UserError, match=message):
        parse_recipe({"model": {"build": "tiny"}} | changes)


@pytest.mark.parametrize(
    ("arm", "names"), [("coat", ["embeddings", "lora"]), ("distill", ["heads", "lora"])]
)
def test_stage_that_has_only_heads_to_train_says_so(arm: str, names: list[str]) -> None:
    recipe = parse_recipe({"model": {"build": "tiny"}, "arm": arm})
    assert [recipe.learns(stage) for stage in recipe.stages().values()] == names
