"""Tests for the shared parts of the command lines: options from types, and exit codes."""

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
    """Folder of the run."""
    num_steps: int = 100
    """Optimiser steps."""
    inner: Inner = field(default_factory=Inner)
    """Nested options."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise UserError(f"num_steps must be >= 1, found {self.num_steps}; raise it")


def train(recipe: Recipe) -> None:
    """Trains with a recipe."""
    print(as_fields(recipe))


def list_items(
    path: str,
    deep: bool = False,
    limit: int | None = None,
    colour: Literal["red", "green"] = "red",
) -> int:
    """Lists items.

    Args:
        path: Path of the folder.
        deep: Include nested items.
        limit: Largest number of items.
        colour: Colour of the items.
    """
    print(path, deep, limit)
    return 1 if deep else 0


def collect(paths: list[str], out: str = "there") -> None:
    """Collects files.

    Args:
        paths: Paths of the files.
        out: Path of the output.
    """
    print(paths, out)


def fail(kind: str) -> None:
    """Raises an exception of a kind."""
    raise {
        "mistake": UserError("first line;\nmend it"),
        "interrupt": KeyboardInterrupt(),
        "defect": ZeroDivisionError(),
    }[kind]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        commands = {"train": train, "list": list_items, "collect": collect, "fail": fail}
        with pytest.raises(SystemExit) as end:
            run_command("coat-x", commands, description="Test commands.", arguments=words)
        printed = capsys.readouterr()
        code = end.value.code
        assert isinstance(code, int | None)
        return code or 0, printed.out, printed.err

    return run


def test_function_arguments_become_positionals_and_options(run: Run) -> None:
    assert run("list", "here") == (0, "here False None\n", "")
    assert run("list", "here", "--deep", "--limit", "3") == (1, "here True 3\n", "")


def test_list_argument_takes_several_words(run: Run) -> None:
    assert run("collect", "a", "b c", "--out", "o") == (0, "['a', 'b c'] o\n", "")
    assert run("collect", "a") == (0, "['a'] there\n", "")
    assert run("collect")[0] == 2


def test_dataclass_fields_become_options_and_config_files(run: Run, tmp_path: Path) -> None:
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
    assert "Lists items." in run("--help")[1]


@pytest.mark.parametrize(
    ("words", "message"),
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
        (("list",), "PATH"),
        (("paint",), "paint"),
        (("fail", "mistake"), "coat-x: error: first line; mend it"),
        ((), "subcommand"),
    ],
)
def test_user_errors_print_one_line_and_exit_with_code_2(
    run: Run, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "recipe.yaml").write_text("out_folder: o\ncolour: blue\n")
    code, out, err = run(*(word.format(recipe=tmp_path / "recipe.yaml") for word in words))
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("coat-x: error: ")
    assert message in line


def test_interrupt_exits_with_130_and_defects_keep_their_traceback(run: Run) -> None:
    code, _, err = run("fail", "interrupt")
    assert code == 130
    assert len(err.splitlines()) == 1
    with pytest.raises(ZeroDivisionError):
        run_command("coat-x", {"fail": fail}, description="", arguments=["fail", "defect"])


def test_version_option_lists_the_libraries(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    message = " ".join(out.split())
    for part in (f"python {platform.python_version()}", "coat-distill ", "numpy ", "pyarrow "):
        assert part in message


def test_console_imports_no_framework() -> None:
    script = "import sys, manifests.cli; print({'torch', 'ray', 'transformers'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "train requires --out-folder; see tool train --help"),
        (["list"], "list requires PATH; see tool list --help"),
        (
            ["train", "--out-folder", "x", "--inner.rate", "fast"],
            "--inner.rate: expected a number, found 'fast'; see tool train --help",
        ),
        (
            ["list", "x", "--limmit", "3"],
            "unknown option --limmit 3; did you mean --limit?; see tool list --help",
        ),
        (
            ["list", "x", "--lim", "3"],
            "unknown option --lim 3; did you mean --limit?; see tool list --help",
        ),
        (
            ["list", "x", "--colour", "blue"],
            "--colour: expected one of 'red', 'green', found 'blue'; see tool list --help",
        ),
        (["list", "x", "--out", "y"], "unknown option --out y; see tool list --help"),
        (["lst"], "unknown command 'lst'; did you mean list?; see tool --help"),
    ],
)
def test_usage_errors_name_the_option_as_typed(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run_command("tool", {"train": train, "list": list_items}, description="x", arguments=words)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"tool: error: {message}\n"
