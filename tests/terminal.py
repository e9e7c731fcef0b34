"""Runs a program in a terminal of 80 columns and records its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte

COLUMNS, LINES = 80, 30


@dataclass(frozen=True)
class Session:
    """The screen of a program."""

    exit_code: int
    screens: list[list[str]]
    """The lines of the screen, without trailing spaces, each time that it had changed."""

    @property
    def last(self) -> str:
        """The screen at the end."""
        return "\n".join(self.screens[-1])

    def lines(self) -> set[str]:
        """Every line that was ever on the screen."""
        return {line for screen in self.screens for line in screen}


def watch(words: Sequence[str | Path], *, cwd: Path, timeout_s: float = 300) -> Session:
    """Runs a program in a terminal until it ends.

    Args:
        words: The program and its arguments.
        cwd: Where it runs.
        timeout_s: It is ended after so many seconds.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    screens: list[list[str]] = [[]]
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        list(map(str, words)), cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs,
        env=kept | {"TERM": "xterm"}, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        while True:
            if time.monotonic() > deadline:
                process.kill()
            readable, _, _ = select.select([ours], [], [], 0.2)
            if not readable:
                if process.poll() is not None:
                    break
                continue
            try:
                data = os.read(ours, 4096)
            except OSError:  # Linux's end of a terminal whose program has gone
                break
            if not data:
                break
            stream.feed(data)
            shown = [line.rstrip() for line in screen.display]
            if shown != screens[-1]:
                screens.append(shown)
        process.wait()
    os.close(ours)
    return Session(process.returncode, screens)
