"""Checks the fields of a recipe file before large libraries are imported.

Names of earlier versions still work. For an unknown name, the most similar field is suggested, and
a wrong value is named with its place in the file.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from manifests.console import messages
from manifests.errors import UserError

RENAMED = {"remember_audio": "cache_audio_tower", "rows_lr": "embeddings_lr"}
"""Name of a field in earlier versions -> its name now."""
RENAMED_VALUES = {("train", "rows"): "embeddings"}
"""(field, its value in earlier versions) -> the value now."""


def read_fields(path: str | Path) -> dict[str, Any]:
    """Reads the fields of a recipe's YAML file without conversion.

    Raises:
        UserError: the file is not YAML, or not a mapping.
    """
    return _read(path)[1]


def _read(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Reads the text of a YAML file and its fields."""
    try:
        text = Path(path).read_text("utf-8")
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a YAML mapping of recipe fields")
    return text, values


def rename_fields(values: Any, source: str, *, quiet: bool = False) -> Any:
    """Renames fields of earlier versions; prints a notice for each unless `quiet`."""
    if isinstance(values, list):
        return [rename_fields(value, source, quiet=quiet) for value in values]
    if not isinstance(values, Mapping):
        return values
    renamed = {}
    for name, value in values.items():
        new = RENAMED.get(name, name)
        if new != name and not quiet:
            messages.print(f"{source}: {name} is now called {new}", markup=False)
        current = RENAMED_VALUES.get((str(new), value)) if isinstance(value, str) else None
        if current is not None:
            if not quiet:
                messages.print(f"{source}: {new}: {value} is now called {current}", markup=False)
            value = current
        renamed[new] = rename_fields(value, source, quiet=quiet)
    return renamed


def check_fields(values: Mapping[str, Any], config: type, source: str, place: str = "") -> None:
    """Checks recursively that all names are fields of a dataclass, and the values of plain types.

    Raises:
        UserError: a name is unknown, or a value has another type or is out of bounds; the message
            has its position, and for a name the most similar field.
    """
    hints = typing.get_type_hints(config)
    names = [item.name for item in dataclasses.fields(config)]
    for name, value in values.items():
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
            nearest = f"; did you mean {place}{near[0]}?" if near else ""
            raise UserError(
                f"{source}: there is no field {place}{name}{nearest} "
                f"(fields here: {', '.join(names)})"
            )
        inner = _dataclass_in(hints[name])
        if inner is None:
            _check_value(value, hints[name], f"{source}: {place}{name}")
        elif isinstance(value, list):
            _check_items(enumerate(value), inner, source, f"{place}{name}.")
        elif isinstance(value, Mapping):
            if _is_mapping(hints[name]):
                _check_items(value.items(), inner, source, f"{place}{name}.")
            else:
                check_fields(value, inner, source, f"{place}{name}.")


def _check_items(items: Iterable[tuple[Any, Any]], config: type, source: str, place: str) -> None:
    """Checks dataclasses in a list or a mapping, with their limits."""
    for key, item in items:
        if not isinstance(item, Mapping):
            continue
        check_fields(item, config, source, f"{place}{key}.")
        hints = typing.get_type_hints(config)
        values = {
            name: hints[name](value) if hints[name] in (int, float) else value
            for name, value in item.items()
        }
        try:
            config(**values)
        except UserError as error:
            message = str(error).removeprefix("recipe: ").replace(".*.", f".{key}.")
            raise UserError(f"{source}: {message}") from None
        except TypeError:
            continue  # A field is missing, or a value is not of a plain type.


def _check_value(value: Any, hint: Any, place: str) -> None:
    """Checks a number, a text, a boolean or a list of texts; other types are checked later.

    A text that contains such a value is accepted, for example `1e-3`, which YAML reads as a text.
    """
    text = str(value)
    if hint is int:
        fits, kind = re.fullmatch(r"[-+]?[\d_]+", text) is not None, "a whole number"
    elif hint is float:
        fits, kind = not isinstance(value, bool) and _is_number(text), "a number"
    elif hint is bool:
        fits, kind = text.lower() in ("true", "false", "yes", "no", "on", "off"), "true or false"
    elif hint == list[str]:
        fits, kind = isinstance(value, list), f"a list, such as [{value}]"
    else:
        return
    if not fits:
        raise UserError(f"{place}: expected {kind}, found {value!r}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def settle_arguments(words: Sequence[str], configs: Mapping[str, type]) -> list[str]:
    """Renames options of earlier versions on a command line, and checks its recipe file.

    The content of the file takes the place of its name, so that the file is read once.

    Args:
        words: The arguments.
        configs: Command with a recipe -> the dataclass of its options.

    Raises:
        UserError: the recipe has a field that does not exist, or is not YAML.
    """
    command = next((word for word in words if word in configs), None)
    if command is None:
        return list(words)
    settled: list[str] = []
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if words[place - 1 : place] == ["--config"]:
            settled.pop()
            word = f"--config={_settle_file(word, configs[command])}"
        elif option == "--config" and equals:
            word = f"--config={_settle_file(value, configs[command])}"
        elif option.startswith("--"):
            word = _settle_option(option) + equals + value
        settled.append(word)
    return settled


def _settle_option(option: str) -> str:
    parts = option[2:].replace("-", "_").split(".")
    renamed = [RENAMED.get(part, part) for part in parts]
    if parts == renamed:
        return option
    messages.print(f"{option} is called --{'.'.join(renamed)} now", markup=False)
    return f"--{'.'.join(renamed)}"


def _settle_file(path: str, config: type) -> str:
    """The content of a recipe's file, with current names."""
    if not Path(path).is_file():
        raise UserError(f"--config {path}: there is no such file")
    text, values = _read(path)
    renamed = rename_fields(values, path)
    check_fields(renamed, config, path)
    return text if renamed == values else yaml.safe_dump(renamed, sort_keys=False)


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass in a type hint: itself, or inside an optional, list or mapping."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint
    return next(
        (inner for part in typing.get_args(hint) if (inner := _dataclass_in(part)) is not None),
        None,
    )


def _is_mapping(hint: Any) -> bool:
    parts = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return any(re.match(r"dict\[", str(part)) for part in parts)
