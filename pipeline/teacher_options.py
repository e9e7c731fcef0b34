"""Merges `--teacher` on the command line with the teachers of `--config` files.

Independent of the order of the options, the command line takes precedence over the file, setting by
setting: a setting of `asr` that the command line does not mention keeps its value from the file.
jsonargparse alone would replace the whole mapping with the later one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from manifests.errors import UserError

COMMANDS = ("build", "plan", "retry-failures")
"""The commands that have both options."""


def merge_teacher_options(words: Sequence[str]) -> list[str]:
    """Replaces the `--teacher` options by one that merges those of the files and of the options.

    Raises:
        UserError: a file or an option is not a mapping of teachers.
    """
    words = list(words)
    if not any(word in COMMANDS for word in words[:2]):
        return words
    configs = _values(words, "--config")
    given = _values(words, "--teacher")
    if not given or len(configs) + len(given) < 2:
        return words
    merged: dict[str, Any] = {}
    for _, value in configs:
        content = _read_yaml(value, f"--config {value}")
        merged = _merge(merged, content.get("teacher") or {})
    for _, value in given:
        merged = _merge(merged, _read_yaml(value, "--teacher"))
    last = max(place for place, _ in (*configs, *given))
    dropped = {index for place, _ in given for index in _places(words, place)}
    after = [index for index in range(len(words)) if index not in dropped and index > last]
    before = [index for index in range(len(words)) if index not in dropped and index <= last]
    return [
        *(words[index] for index in before),
        f"--teacher={json.dumps(merged)}",
        *(words[index] for index in after),
    ]


def _values(words: Sequence[str], option: str) -> list[tuple[int, str]]:
    """(place of the last word, value) of each occurrence of an option."""
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
        raise UserError(f"{source}: there is no such file")
    text = Path(value).read_text("utf-8") if is_file else value
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"{source} must be a mapping, such as "
            '\'{"asr": {"settings": {"model": "/models/whisper"}}}\'; ' + f"found {content!r}"
        )
    return content


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
