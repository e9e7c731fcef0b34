"""Merges `--teacher` on the command line with the teachers of `--config` files.

`--teacher.NAME.settings.model VALUE` stands for the mapping `{NAME: {settings: {model: VALUE}}}`.
Independent of the order of the options, the command line takes precedence over the file, setting by
setting: a setting of `asr` that the command line does not mention keeps its value from the file.
jsonargparse alone would replace the whole mapping with the later one, and its messages about a
mapping within a mapping name neither the teacher nor the file.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from manifests.errors import UserError, not_utf8
from pipeline.config import Resources, TeacherConfig

COMMANDS = ("build", "plan", "retry-failures")
"""The commands that have both options."""
EXAMPLE = '{"asr": {"settings": {"model": "/models/whisper"}}}'
KINDS = {dict: "a mapping", str: "a text", float: "a number", int: "a whole number"}
"""Python's type -> its name in messages."""


def merge_teacher_options(words: Sequence[str]) -> list[str]:
    """Replaces the `--teacher` options by one that merges those of the files and of the options.

    Raises:
        UserError: a file or an option is not a mapping of teachers.
    """
    words = list(words)
    if not any(word in COMMANDS for word in words[:2]):
        return words
    words = _expand(words)
    configs = _values(words, "--config")
    given = _values(words, "--teacher")
    merged: dict[str, Any] = {}
    for _, value in configs:
        content = _read_yaml(value, f"--config {value}")
        merged = _merge(merged, _checked(content.get("teacher") or {}, f"teacher in {value}"))
    for _, value in given:
        merged = _merge(merged, _checked(_read_yaml(value, "--teacher"), "--teacher"))
    if not given or len(configs) + len(given) < 2:
        return words
    last = max(place for place, _ in (*configs, *given))
    dropped = {index for place, _ in given for index in _places(words, place)}
    after = [index for index in range(len(words)) if index not in dropped and index > last]
    before = [index for index in range(len(words)) if index not in dropped and index <= last]
    return [
        *(words[index] for index in before),
        f"--teacher={json.dumps(merged)}",
        *(words[index] for index in after),
    ]


def _expand(words: Sequence[str]) -> list[str]:
    """Replaces all `--teacher.NAME.FIELD VALUE` by one `--teacher` with a mapping."""
    others: list[str] = []
    changes: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        path = option.removeprefix("--teacher.").split(".")
        if not option.startswith("--teacher.") or path == ["help"]:
            others.append(word)
            continue
        if not equals:
            value = next(rest, None)
            if value is None:
                raise UserError(f"{option} needs a value")
        inner = changes
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise UserError(f"{option}: {key} has a value already")
        inner[path[-1]] = _parse(value, option)
    if changes:
        others.append(f"--teacher={json.dumps(changes, default=str)}")
    return others


def _checked(teachers: Any, source: str) -> dict[str, Any]:
    """A mapping of teachers, whose fields and resources exist.

    Raises:
        UserError: it is none, or has an unknown field.
    """
    if not isinstance(teachers, dict):
        raise UserError(f"{source} must be a mapping, such as '{EXAMPLE}'; found {teachers!r}")
    for name, teacher in teachers.items():
        if not isinstance(teacher, Mapping):
            raise UserError(f"{source}: {name} must be a mapping of fields; found {teacher!r}")
        resources = teacher.get("resources")
        for what, mapping, kind in (
            (f"teacher {name} has", teacher, TeacherConfig),
            (f"the resources of teacher {name} have", resources, Resources),
        ):
            known = [field.name for field in fields(kind)]
            keys = mapping if isinstance(mapping, Mapping) else ()
            unknown = [key for key in keys if key not in known]
            if unknown:
                raise UserError(
                    f"{what} no field {unknown[0]!r}; the fields are {', '.join(known)}"
                )
        _check_types(f"teacher {name}: ", teacher, TeacherConfig)
    return teachers


def _check_types(where: str, mapping: Mapping[str, Any], kind: type) -> None:
    """Checks the values of a mapping that has the fields of a class.

    Raises:
        UserError: a value has another type than its field.
    """
    hints = typing.get_type_hints(kind)
    for key, value in mapping.items():
        name, hint = f"{where}{key}", hints[key]
        if hint is Resources:
            _check_type(name, value, dict)
            _check_types(f"{name}.", value, Resources)
            continue
        inner = typing.get_args(hint)
        _check_type(name, value, dict if inner else hint)
        if inner and inner[1] is not Any:
            for each, item in value.items():
                _check_type(f"{name}.{each}", item, inner[1])


def _check_type(name: str, value: Any, kind: type) -> None:
    allowed = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise UserError(f"{name}: expected {KINDS[kind]}, found {value!r}")


def _values(words: Sequence[str], option: str) -> list[tuple[int, str]]:
    """Returns (place of the last word, value) of each occurrence of an option."""
    values = []
    for place, word in enumerate(words):
        if word == option and place + 1 < len(words):
            values.append((place + 1, words[place + 1]))
        elif word.startswith(f"{option}="):
            values.append((place, word.partition("=")[2]))
    return values


def _places(words: Sequence[str], place: int) -> list[int]:
    """The places of the words of an option whose last word is at `place`."""
    return [place] if words[place].startswith("--teacher=") else [place - 1, place]


def _read_yaml(value: str, source: str) -> dict[str, Any]:
    is_file = "\n" not in value and len(value) < 4096 and Path(value).is_file()
    if source.startswith("--config") and not is_file:
        is_folder = Path(value).is_dir()
        what = "is a folder, expected a YAML file" if is_folder else "there is no such file"
        raise UserError(f"{source}: {what}")
    try:
        text = Path(value).read_text("utf-8") if is_file else value
    except UnicodeDecodeError as error:
        raise not_utf8(source, error) from None
    content = _parse(text, source)
    if content is None:
        return {}
    if not isinstance(content, dict):
        example = "cache: cache" if source.startswith("--config") else EXAMPLE
        raise UserError(f"{source} must be a mapping, such as '{example}'; found {content!r}")
    return content


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from None


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merges two mappings recursively; a teacher with another family replaces the first one."""
    merged = dict(base)
    for name, value in changes.items():
        known = merged.get(name)
        if not isinstance(known, Mapping) or not isinstance(value, Mapping):
            merged[name] = value
        elif value.get("family", known.get("family")) != known.get("family"):
            kept = {"resources": known["resources"]} if "resources" in known else {}
            merged[name] = {**kept, **value}
        else:
            merged[name] = _merge(known, value)
    return merged
