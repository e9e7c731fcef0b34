"""Tests the common parts of the command lines: options from types, and exit codes."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from manifests.console import as_fields, run_command
from manifests.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Part of a recipe."""

    rate: float = 0.5
    """Learning rate, in (0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe."""

    out_folder: str
    """Where the run goes."""
    num_steps: int = 100
    """Optimiser steps."""
    inner: Inner = field(default_factory=Inner)
    """Nested options."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise UserError(f"num_steps must be >= 1, found {self.num_steps}; raise it")


def train(recipe: Recipe) -> None:
    """Train by a recipe."""
    print(as_fields(recipe))


def look(
    path: str,
    deep: bool = False,
    limit: int | None = None,
    colour: Literal["red", "green"] = "red",
) -> int:
    """Lists something.

    Args:
        path: Path of the thing.
        deep: Look closely.
        limit: Most things to look at.
        colour: Colour of the things.
    """
    print(path, deep, limit)
    return 1 if deep else 0


def gather(paths: list[str], out: str = "there") -> None:
    """Gathers things.

    Args:
        paths: Paths of the things.
        out: Where to.
    """
    print(paths, out)


def stop(how: str) -> None:
    """End in one way or another."""
    raise {
        "mistake": UserError("first line;\nmend it"),
        "interrupt": KeyboardInterrupt(),
        "defect": ZeroDivisionError(),
    }[how]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        commands = {"train": train, "look": look, "gather": gather, "stop": stop}
        with pytest.raises(SystemExit) as end:
            run_command("coat-x", commands, description="Does things.", arguments=words)
        printed = capsys.readouterr()
        code = end.value.code
        assert isinstance(code, int | None)
        return code or 0, printed.out, printed.err

    return run


def test_a_function_gives_positionals_and_options(run: Run) -> None:
    assert run("look", "here") == (0, "here False None\n", "")
    assert run("look", "here", "--deep", "--limit", "3") == (1, "here True 3\n", "")


def test_a_list_takes_words_as_a_shell_gives_them(run: Run) -> None:
    assert run("gather", "a", "b c", "--out", "o") == (0, "['a', 'b c'] o\n", "")
    assert run("gather", "a") == (0, "['a'] there\n", "")
    assert run("gather")[0] == 2


def test_a_dataclass_gives_options_and_files(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("train", "--out-folder", "o", "--inner.rate=0.25")
    assert (code, out) == (0, "{'out_folder': 'o', 'num_steps': 100, 'inner': {'rate': 0.25}}\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("out_folder: o\nnum_steps: 7\ninner: {rate: 0.1}\n")
    code, out, _ = run("train", "--config", str(recipe), "--num-steps", "8")
    assert (code, out) == (0, "{'out_folder': 'o', 'num_steps': 8, 'inner': {'rate': 0.1}}\n")


def test_help_shows_docstrings_units_and_defaults(run: Run) -> None:
    code, out, _ = run("train", "--help")
    assert code == 0
    assert "--out-folder" in out
    assert "Learning rate, in (0, 1]." in out
    assert "default: 0.5" in out
    assert "Lists something." in run("--help")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--out-folder", "o", "--steps", "3"), "--steps"),
        (
            ("train", "--out-folder", "o", "--num-steps", "many"),
            "--num-steps: expected a whole number",
        ),
        (("train", "--out-folder", "o", "--num-steps", "0"), "num_steps must be >= 1, found 0"),
        (("train", "--config", "{recipe}"), "colour"),
        (("train", "--config", "/absent.yaml"), "/absent.yaml"),
        (("train",), "--out-folder"),
        (("look",), "PATH"),
        (("paint",), "paint"),
        (("stop", "mistake"), "coat-x: error: first line; mend it"),
        ((), "subcommand"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "recipe.yaml").write_text("out_folder: o\ncolour: blue\n")
    code, out, err = run(*(word.format(recipe=tmp_path / "recipe.yaml") for word in words))
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("coat-x: error: ")
    assert said in line


def test_other_ends(run: Run) -> None:
    code, _, err = run("stop", "interrupt")
    assert code == 130
    assert len(err.splitlines()) == 1
    with pytest.raises(ZeroDivisionError):
        run_command("coat-x", {"stop": stop}, description="", arguments=["stop", "defect"])


def test_versions(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    said = " ".join(out.split())
    for part in (f"python {platform.python_version()}", "coat-distill ", "numpy ", "pyarrow "):
        assert part in said


def test_the_console_loads_no_framework() -> None:
    script = "import sys, manifests.cli; print({'torch', 'ray', 'transformers'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "train requires --out-folder; see tool train --help"),
        (["look"], "look requires PATH; see tool look --help"),
        (
            ["train", "--out-folder", "x", "--inner.rate", "fast"],
            "--inner.rate: expected a number, found 'fast'; see tool train --help",
        ),
        (
            ["look", "x", "--limmit", "3"],
            "unknown option --limmit 3; did you mean --limit?; see tool look --help",
        ),
        (
            ["look", "x", "--colour", "blue"],
            "--colour: expected one of 'red', 'green', found 'blue'; see tool look --help",
        ),
        (["lok"], "unknown command 'lok'; did you mean look?; see tool --help"),
    ],
)
def test_mistakes_are_named_as_they_are_typed(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run_command("tool", {"train": train, "look": look}, description="x", arguments=words)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"tool: error: {message}\n"
