"""Tests that every benchmark can be imported, and that those with options describe them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))
WITH_OPTIONS = [path for path in FILES if "ArgumentParser" in path.read_text("utf-8")]


def module_name(path: Path) -> str:
    """Returns the name by which Python imports a file of the project."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_benchmark_can_be_imported(path: Path) -> None:
    """Guards scripts that are rarely run against renamed functions."""
    importlib.import_module(module_name(path))


@pytest.mark.parametrize("path", WITH_OPTIONS, ids=module_name)
def test_benchmark_help_lists_its_options(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [path.stem, "--help"])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(module_name(path)).main()
    assert stopped.value.code in (0, None)
    assert "--" in capsys.readouterr().out
