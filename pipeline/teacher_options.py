"""`--teacher` on the command line changes what a `--config` file says of teachers; it replaces
nothing else of it.

Whichever comes first, the file is read first, and the command line has the last word: a setting of
`asr` that the command line does not name stays as the file has it. jsonargparse alone would let the
later of the two replace the whole mapping.
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
    """A command line in which one `--teacher` stands for those of the files and of the options.

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
    """(place of the last word, value) of each time that an option is given."""
    values = []
    for place, word in enumerate(words):
        if word == option and place + 1 < len(words):
            values.append((place + 1, words[place + 1]))
        elif word.startswith(f"{option}="):
            values.append((place, word.partition("=")[2]))
    return values


def _places(words: Sequence[str], place: int) -> list[int]:
    """The places of an option's words, whose last is at `place`."""
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
    """Deeply the first with the second's values; a teacher of another family starts anew."""
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
