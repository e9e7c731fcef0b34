"""Reads, checks, writes and compares recipes as YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from manifests.console import as_fields, stated_cause
from manifests.errors import UserError
from manifests.option_values import check_values, expand_home
from student.config import Recipe
from student.recipe_names import check_fields, read_fields, rename_fields

RECIPE_FILE = "recipe.yaml"
"""Name of a run's recipe; a folder with one is a run."""


def _parser() -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    return parser


def parse_recipe(
    values: Mapping[str, Any], source: str = "recipe", *, quiet: bool = False
) -> Recipe:
    """Builds a recipe from the values of its YAML file.

    Raises:
        UserError: an unknown field, a value of the wrong type or out of bounds.
    """
    values = rename_fields(values, source, quiet=quiet)
    check_fields(values, Recipe, source)
    parser = _parser()
    try:
        parsed = expand_home(parser.parse_object(dict(values)))
        check_values(parsed, Recipe, f"{source}: ")
        with stated_cause():
            return Recipe(**vars(parser.instantiate(parsed)))
    except ArgumentError as error:
        raise UserError(f"{source}: {' '.join(str(error).split())}") from None


def load_recipe(path: str | Path, *, quiet: bool = False, **changes: Any) -> Recipe:
    """Reads a recipe from its YAML file; prints a notice for renamed fields unless `quiet`."""
    if not Path(path).is_file():
        raise UserError(f"there is no recipe {path}; those that ship are in {recipes_folder()}")
    return replace(parse_recipe(read_fields(path), str(path), quiet=quiet), **changes)


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Writes a recipe as YAML with all fields."""
    text = yaml.safe_dump(as_fields(recipe), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def recipes_folder() -> Path:
    """The folder of the recipes that come with the package."""
    return Path(__file__).with_name("recipes")


def differences(ours: Recipe, theirs: Recipe) -> list[str]:
    """Lists the fields in which two recipes differ, by dotted name, with both values."""
    return _differences(as_fields(ours), as_fields(theirs), "")


def _differences(ours: Any, theirs: Any, name: str) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for key in {**ours, **theirs}
            for line in _differences(ours.get(key), theirs.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if ours == theirs else [f"{name}: {theirs!r} in the run, {ours!r} now"]
