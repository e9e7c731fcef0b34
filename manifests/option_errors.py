"""Turns jsonargparse's messages about wrong options into one line that says what to type instead.

jsonargparse names an option by its field, `ray_address`, and a type by its class; the lines have
the spelling of the command line, plain names of types and the nearest known word.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence

from jsonargparse import ArgumentParser

from manifests.library_internals import options_of, subcommands_of
from manifests.option_values import describe_no_value

_KINDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}
"""Python's type -> its name in messages."""


def dashed(text: str) -> str:
    """Spells the options in a text with hyphens."""
    return re.sub(r"--[a-z_.]+", lambda match: match[0].replace("_", "-"), text)


def describe_option_error(message: str, parser: ArgumentParser) -> str:
    """Describes an error of parsing in one line.

    Args:
        message: The message of jsonargparse.
        parser: The parser that raised it.
    """
    last = " ".join(line.strip() for line in str(message).splitlines() if line.strip())
    program = parser.prog.replace(" [options]", "")
    if required := re.fullmatch(r"the following arguments are required: (\w\S*)\.(.*)", last):
        command, name = required[1], re.sub(rf"\b{required[1]}\.", "", required[2])
        last, program = _required(parser, command, name.split(", ")), f"{program} {command}"
    elif wrong := re.search(r"Parser key \"(.*?)\": Expected an? (.*?)\. Got value: (.*)", last):
        name, kind, value = wrong[1], _named_type(wrong[2]), wrong[3]
        last = f"{dashed(f'--{name}')}: expected {kind}, found {value!r}{_form(kind, value)}"
    elif several := re.search(
        r"Parser key \"(.*?)\": Does not validate against any of the Union subtypes.*? Errors: "
        r"- (.*?) Given value type: .*? Given value: (.*)",
        last,
    ):
        name, errors, value = several.groups()
        last = _union_error(name, errors.split(" - "), value)
    elif no_file := re.search(r"Parser key \"(.*?)\": File does not exist: '?(.*?)'?$", last):
        last = f"{dashed(f'--{no_file[1]}')}: there is no file {no_file[2]}"
    elif key := re.search(r"Subcommand '(.*?)' does not accept option '(.*?)'", last):
        command, program = key[1], f"{program} {key[1]}"
        known = [name.lstrip("-") for name in options_of(subcommands_of(parser).get(command))]
        last = f"the configuration has the unknown key {key[2]!r}{_suggestion(key[2], known)}"
    elif unknown := re.fullmatch(r"unrecognized arguments: (\S+)(.*)", last):
        option = dashed(unknown[1])
        known = [dashed(known) for known in options_of(parser)]
        last = f"unknown option {option}{unknown[2]}{_suggestion(option, known)}"
    elif empty := re.fullmatch(r"Unexpected config:\s*(\w+):", last):  # the file's only key
        last = describe_no_value(empty[1])
    elif odd := re.fullmatch(r"Unexpected config:\s*(.*)", last):
        last = f"the file of --config must be a mapping of options, found {odd[1] or 'none'}"
    elif choice := re.fullmatch(r"argument subcommand: invalid choice: '(.*?)' .*", last):
        last = f"unknown command {choice[1]!r}{_suggestion(choice[1], subcommands_of(parser))}"
    return f"{last.rstrip('.')}; see {program} --help"


def _union_error(name: str, errors: Sequence[str], value: str) -> str:
    """Describes a value that fits none of several types: by the first of them, or by all."""
    first = errors[0]
    if unknown := re.match(r"Option '(.*?)' is not accepted", first):
        option = dashed(f"--{name}.{unknown[1]}")
        return f"unknown option {option}; see the fields with {dashed(f'--{name}')}.help"
    if first.startswith("--"):
        return dashed(f"--{name}.{first.partition('; see ')[0].removeprefix('--')}")
    kinds = [_named_type(error.split(" ", 2)[-1]) for error in errors if "Expected a" in error]
    kind = " or ".join(kind for kind in dict.fromkeys(kinds) if kind != "NoneType") or first
    return f"{dashed(f'--{name}')}: expected {kind}, found {value!r}"


def _required(parser: ArgumentParser, command: str, names: Sequence[str]) -> str:
    """Names required options as they are typed, and positional arguments in capitals."""
    options = options_of(subcommands_of(parser).get(command))
    typed = [dashed(f"--{name}") if f"--{name}" in options else name.upper() for name in names]
    return f"{command} requires {', '.join(typed)}"


def _named_type(kind: str) -> str:
    kind = re.sub(r"<class '(\w+)'>", lambda match: _KINDS.get(match[1], match[1]), kind)
    return re.sub(
        r"typing\.Literal\[(.*?)\]",
        lambda match: f"one of {match[1]}" if ", " in match[1] else match[1],
        kind,
    )


def _suggestion(word: str, known: Iterable[str]) -> str:
    # The dashes would make all options similar.
    names = {name.lstrip("-"): name for name in known}
    nearest = difflib.get_close_matches(word.lstrip("-"), list(names), n=1)
    return f"; did you mean {names[nearest[0]]}?" if nearest else ""


def _form(kind: str, value: str) -> str:
    """A hint on writing a list."""
    if kind == "list":
        return f"; write a list, such as '{json.dumps([value])}'"
    return ""
