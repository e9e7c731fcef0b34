"""Keeps the results of a long evaluation as they are made, so that a killed one can be resumed.

A journal is a JSON-lines file. Its first line is the identity of the evaluation: checkpoint,
questions and settings. Every further line is one result, such as the replies of a batch. Results
are used again only by an evaluation with the same identity. A line that a kill truncated is
ignored. The journal is deleted when the results are complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from manifests.console import messages
from manifests.errors import UserError
from manifests.folder_lock import try_lock
from manifests.storage import name_state
from student.evaluation.answering import Reply
from student.runs.folder import Run

WEIGHTS = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
"""Suffixes of the files of a checkpoint that determine its replies."""
RESULTS = ("ablation", "probes", "reading")
"""Prefixes of files that evaluations write into the folder of a checkpoint."""

Identity = dict[str, Any]


def build_identity(run: str | Path, questions: str, **settings: Any) -> Identity:
    """Builds the identity of an evaluation, as JSON values.

    Args:
        run: A run or a plain checkpoint.
        questions: Digest of the questions.
        settings: All settings that change results.

    Raises:
        UserError: there is no run or checkpoint, or no stage of the run is finished.
    """
    identity = {
        "version": metadata.version("coat-distill"),
        "checkpoint": _checkpoint(Run(run)),
        "questions": questions,
        **settings,
    }
    return json.loads(json.dumps(identity))


def read_identity(file: Path) -> Identity | None:
    """The identity in the first line of a journal; None if there is no complete one."""
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        identity = _parsed(opened.readline())
    return identity if isinstance(identity, dict) else None


@dataclass
class Journal:
    """The results of an unfinished evaluation; `open_journal` opens it."""

    path: Path
    file: BinaryIO
    identity: Identity
    lines: list[tuple[str, Any]]

    def entries(self, part: str) -> list[Any]:
        """The results of one part, in the order in which they were made."""
        return [entry for name, entry in self.lines if name == part]

    def append(self, part: str, entry: Any) -> None:
        """Adds one result; it is on the disk when this returns."""
        self._write([part, entry])
        self.lines.append((part, entry))

    def replies(self, part: str) -> dict[str, Reply]:
        """Question id -> reply, of the batches that one part has."""
        return {
            question: Reply(text=text, is_cut=is_cut)
            for batch in self.entries(part)
            for question, (text, is_cut) in batch.items()
        }

    def keep_replies(self, part: str, replies: Mapping[str, Reply]) -> None:
        """Adds the replies of one batch."""
        self.append(part, {name: [reply.text, reply.is_cut] for name, reply in replies.items()})

    def restart(self) -> None:
        """Removes all results."""
        self.file.truncate(0)
        self.lines.clear()
        self._write(self.identity)

    def _write(self, value: Any) -> None:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        if self.file.seek(0, os.SEEK_END):
            self.file.seek(-1, os.SEEK_END)
            if self.file.read(1) != b"\n":  # a kill or a full disk truncated the last line
                text = b"\n" + text
        self.file.write(text)
        self.file.flush()
        os.fsync(self.file.fileno())


@contextmanager
def open_journal(path: Path, identity: Identity) -> Iterator[Journal]:
    """Opens the journal of an evaluation, and deletes it if the block ends without an error.

    Args:
        path: Its file.
        identity: The identity of the evaluation (see `build_identity`). A journal of another
            evaluation is discarded with a message.

    Raises:
        UserError: another process has it open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if not try_lock(file, path, "evaluation"):
            raise UserError(
                f"another process is writing {path}; wait until it has finished, or, with eval, "
                "choose another --name"
            )
        file.seek(0)
        first, *rest = [_parsed(line) for line in file.readlines()] or [None]
        journal = Journal(path, file, identity, [])
        if first == identity:
            whole = [line for line in rest if isinstance(line, list) and len(line) == 2]
            journal.lines = [(part, entry) for part, entry in whole]
        else:
            if isinstance(first, dict) and rest:
                names = {*first, *identity}
                other = [name for name in sorted(names) if first.get(name) != identity.get(name)]
                messages.print(
                    f"{path}: the results of an unfinished evaluation are discarded; it had "
                    f"another {', '.join(other)}",
                    markup=False,
                )
            journal.restart()
        is_kept = True
        try:
            yield journal
            is_kept = False
        finally:
            if not is_kept or not journal.lines:
                path.unlink(missing_ok=True)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _checkpoint(run: Run) -> Mapping[str, str]:
    """File -> its size and time of change, for the files that determine replies."""
    if not run.exists and (run.folder / "config.json").is_file():
        return _states(run.folder)
    files = Run.open(run.folder).recipe_file, run.last_state()
    states = {str(file.relative_to(run.folder)): _state(file) for file in files}
    base = Path(run.base)
    inner = _states(base) if base.is_dir() else {"": run.base}
    return states | {f"base/{name}": state for name, state in inner.items()}


def _states(folder: Path) -> dict[str, str]:
    return {
        file.name: _state(file)
        for file in sorted(folder.iterdir())
        if file.suffix in WEIGHTS and not file.name.startswith(RESULTS) and file.is_file()
    }


def _state(file: Path) -> str:
    status = file.stat()
    return name_state(status.st_size, status.st_mtime_ns)
