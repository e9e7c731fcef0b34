"""The parts that the three command lines share: parsing from types, logging, exit codes.

A command is a function. If its only parameter is a dataclass, every field is an option and
`--config FILE.yaml` gives them from a file; otherwise required parameters are positional and the
others options. Names, types, defaults and help come from signatures and docstrings (jsonargparse).

Every program also has `completion SHELL`, which prints a script for that shell (shtab), and
`--version`, which prints the versions of this project and the libraries it depends on.

Exit codes: 0 success, 1 the command ran and found a problem, 2 an error that the user can correct
(one line), 130 interrupted by SIGINT, 143 by SIGTERM. Colours are used on terminals only;
`NO_COLOR` turns them off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import json
import logging
import math
import os
import platform
import re
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from rich.console import Console
from rich.logging import RichHandler

from manifests.errors import StoreError, UserError, is_disk_full, not_utf8
from manifests.interruptions import INTERRUPTED, exit_code_of, ignore_signals, raise_on_sigterm
from manifests.library_internals import flags_of, is_list_of_strings, subcommands_of
from manifests.option_errors import dashed, describe_option_error
from manifests.option_values import check_values, expand_home

VERSIONED = (
    "coat-distill", "numpy", "pyarrow", "ray", "torch", "transformers", "onnxruntime", "peft",
)  # fmt: skip

_AS_IT_IS: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
"""Texts, labels and ids are printed literally: `[noise]` and `:x:` are not markup."""
console = Console(width=None if sys.stdout.isatty() else 160, **_AS_IT_IS)
"""Console for results: stdout."""
messages = Console(stderr=True, width=None if sys.stderr.isatty() else 160, **_AS_IT_IS)
"""Console for progress and log lines: stderr."""

Command = Callable[..., int | None]
BROKEN_PIPE = 141
"""Exit code if the reader of the output has closed it, like that of a program ended by SIGPIPE."""


class _Parser(ArgumentParser):
    """Reports errors in one line without a usage text, and spells options with dashes.

    jsonargparse names an option after its field, with underscores. This parser shows
    `--ray-address`, and accepts underscores, too.
    """

    def add_argument(self, *names: Any, **options: Any) -> Any:
        # A positional list is given as separate words; jsonargparse has already wrapped its type.
        if is_list_of_strings(options) and not names[0].startswith("-"):
            options |= {"action": "store", "type": str, "nargs": "+"}
        action: Any = super().add_argument(*names, **options)
        if options.get("type") is bool:
            action.nargs, action.const, action.metavar = "?", True, "BOOL"
        return action

    def format_help(self) -> str:
        return dashed(super().format_help())

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if isinstance(ex, UserError):
            raise ex
        raise UserError(describe_option_error(message, self))


def run_command(
    name: str,
    commands: Mapping[str, Command],
    *,
    description: str,
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Runs a command line and returns through its exit code.

    Args:
        name: The program's name.
        commands: Subcommand -> function; the function's result is the exit code, None being 0.
        description: One line for `--help`.
        arguments: Arguments instead of `sys.argv`.
    """
    raise_on_sigterm()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Texts of any script are shown, escaped where the locale's encoding lacks their characters.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(name, commands, description, arguments)
        sys.stdout.flush()
        sys.exit(code)
    except UserError as error:
        print(f"{name}: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        ignore_signals()
        print(f"{name}: {INTERRUPTED}", file=sys.stderr)
        sys.exit(exit_code_of(error))
    except BrokenPipeError:
        _drop_output()
        sys.exit(BROKEN_PIPE)
    except Exception as error:
        reason = _full_disk(error)
        if reason is None and isinstance(error, OSError):
            reason = _store_error(error) or _path_error(error)
        if reason is None:
            raise
        logging.getLogger(__name__).info("where it happened", exc_info=True)
        print(f"{name}: error: {reason}", file=sys.stderr)
        sys.exit(2)


def _drop_output() -> None:
    """Sends what stdout still holds nowhere: it cannot be written, and Python tries again at the
    end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _full_disk(error: Exception) -> str | None:
    """Describes a write without room on the disk in one line; None for other errors."""
    if not is_disk_full(error):
        return None
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    named = f" to {error.filename}" if isinstance(error, OSError) and error.filename else ""
    why = " ".join(str(getattr(error, "strerror", None) or error).split())
    return f"cannot write{named}: {why}; free some space and run the same command again"


def _path_error(error: OSError) -> str | None:
    """A one-line message about a path that cannot be opened or created; None for other errors.

    pyarrow's errors have the path only in their text.
    """
    kinds = (
        FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError,
    )  # fmt: skip
    quoted = re.search(r"'(/[^']+)'", str(error))
    name = error.filename or (quoted and quoted[1])
    if not isinstance(error, kinds) or not isinstance(name, str | os.PathLike):
        return None
    path = Path(name)
    if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        return f"there is no folder {path.parent} for {path.name}; create it, or correct the path"
    advice = "check the permissions" if isinstance(error, PermissionError) else "correct the path"
    why = os.strerror(error.errno) if error.errno else str(error)
    return f"cannot use {path}: {why}; {advice}"


def _store_error(error: OSError) -> str | None:
    """A one-line message about an unreachable store or a missing bucket; None for other errors.

    pyarrow has no class for such errors; only the message of the store's client identifies them.
    """
    text = " ".join(str(error).split())
    if isinstance(error, StoreError):
        return text
    if not re.search(r"When \w+|AWS Error|google::cloud|storage.googleapis", text):
        return None
    if re.search(r"NO_SUCH_BUCKET|[Bb]ucket .*does not exist|NoSuchBucket", text):
        return f"there is no such bucket; create it or correct the address: {text}"
    return (
        f"the object store could not be used: {text}; check the address, the network, the "
        "credentials and AWS_ENDPOINT_URL, then run the same command again"
    )


def to_json(value: Any, *, indent: int | None = 1) -> str:
    """Writes a value that `as_fields` accepts as strict JSON; NaN and infinity become null."""

    def finite(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return None
        if isinstance(item, dict):
            return {key: finite(part) for key, part in item.items()}
        return [finite(part) for part in item] if isinstance(item, list) else item

    return json.dumps(finite(as_fields(value)), indent=indent, ensure_ascii=False, allow_nan=False)


def _run(
    name: str, commands: Mapping[str, Command], description: str, arguments: Sequence[str] | None
) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if list(words) == ["--version"]:
        print(_versions())
        return 0
    parser, commands = make_parser(name, commands, description=description)
    try:
        parsed = parser.parse_args(_with_values([_underscored(word) for word in words], parser))
    except UnicodeDecodeError as error:
        raise not_utf8("the file of --config", error) from None
    _configure_logging(parsed.verbose)
    function = commands[parsed.subcommand]
    given = expand_home(parsed[parsed.subcommand])
    config = _config_class(function)
    if config is not None:
        check_values(given, config)
    parsed[parsed.subcommand] = given
    with stated_cause():
        fields = parser.instantiate(parsed)[parsed.subcommand]
    values = {key: value for key, value in vars(fields).items() if not key.startswith("__")}
    if config is None:
        return function(**values) or 0
    values.pop("config", None)
    return function(config(**values)) or 0


@contextlib.contextmanager
def stated_cause() -> Iterator[None]:
    """Turns jsonargparse's error about a field of several types into that of the first type."""
    try:
        yield
    except ValueError as error:
        stated = re.search(r"^Errors:\n\s*- (.*)$", str(error), re.MULTILINE)
        if stated is None:
            raise
        raise UserError(stated[1]) from None


def make_parser(
    name: str, commands: Mapping[str, Command], *, description: str
) -> tuple[ArgumentParser, dict[str, Command]]:
    """The parser of a command line, and its commands with `completion` among them."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(prog=name, description=description, version=_versions(), allow_abbrev=False)
    parser.add_argument("--verbose", action="store_true", help="write log messages to stderr")
    subcommands = parser.add_subcommands(required=True)

    def completion(shell: Literal["bash", "zsh"]) -> None:
        """Print a completion script: source <(PROGRAM completion bash).

        Args:
            shell: The shell for which the script is printed.
        """
        print(dashed(parser.get_completion_script(f"shtab-{shell}")))

    all_commands = {**commands, "completion": completion}
    for subcommand, function in all_commands.items():
        config = _config_class(function)
        about = (inspect.getdoc(function) or "").split("\n\n")[0]
        child = _Parser(prog=f"{name} {subcommand}", description=about, allow_abbrev=False)
        if config is not None:
            child.add_argument("--config", action="config", help="YAML file with these options")
            child.add_class_arguments(config)
        else:
            child.add_function_arguments(function, as_positional=True, fail_untyped=True)
        subcommands.add_subcommand(subcommand, child, help=about.split("\n")[0])
    return parser, all_commands


BOOLEANS = ("true", "false", "yes", "no")
"""Values of a flag, in lower case."""


def _with_values(words: Sequence[str], parser: ArgumentParser) -> list[str]:
    """Gives flags without a value one: in `--json FOLDER`, the folder is not the flag's value."""
    children = subcommands_of(parser)
    flags = flags_of(next((children[word] for word in words if word in children), None))
    return [
        f"{word}=true" if word in flags and following.lower() not in BOOLEANS else word
        for word, following in itertools.zip_longest(words, words[1:], fillvalue="")
    ]


def _underscored(word: str) -> str:
    option, equals, value = word.partition("=")
    if not re.fullmatch(r"--[a-z][a-z0-9_.-]*", option):
        return word
    return "--" + option[2:].replace("-", "_") + equals + value


def _config_class(function: Command) -> type | None:
    hints = {key: hint for key, hint in typing.get_type_hints(function).items() if key != "return"}
    first = next(iter(hints.values()), None)
    return first if len(hints) == 1 and dataclasses.is_dataclass(first) else None  # pyright: ignore


def _configure_logging(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=messages, show_path=False, show_time=verbose)],
    )
    # The hub's client prints its messages itself, too.
    logging.getLogger("huggingface_hub").propagate = False
    if not verbose:
        warnings.simplefilter("ignore")


def _versions() -> str:
    lines = [f"python {platform.python_version()}"]
    for package in VERSIONED:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return "\n".join(lines)


def as_fields(value: Any) -> Any:
    """Converts a dataclass (or namespace) recursively to values that JSON can represent."""
    if isinstance(value, Namespace):
        return value.as_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: as_fields(getattr(value, item.name)) for item in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): as_fields(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_fields(item) for item in value]
    return value
