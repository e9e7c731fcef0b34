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
    """The recorded screens of a program."""

    exit_code: int
    screens: list[list[str]]
    """Lines of the screen, without trailing spaces, after each change."""

    @property
    def last(self) -> str:
        """The final screen."""
        return "\n".join(self.screens[-1])

    def lines(self) -> set[str]:
        """Returns all lines of all screens."""
        return {line for screen in self.screens for line in screen}


def record_terminal(words: Sequence[str | Path], *, cwd: Path, timeout_s: float = 300) -> Session:
    """Runs a program in a terminal until it ends.

    Args:
        words: The program and its arguments.
        cwd: Working directory of the program.
        timeout_s: Seconds after which the program is killed.
    """
    master_fd, slave_fd = pty.openpty()
    fcntl.ioctl(slave_fd, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {
        key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")
    }
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    screens: list[list[str]] = [[]]
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        list(map(str, words)), cwd=cwd, stdin=slave_fd, stdout=slave_fd, stderr=slave_fd,
        env=environment | {"TERM": "xterm"}, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(slave_fd)
        while True:
            if time.monotonic() > deadline:
                process.kill()
            readable, _, _ = select.select([master_fd], [], [], 0.2)
            if not readable:
                if process.poll() is not None:
                    break
                continue
            try:
                data = os.read(master_fd, 4096)
            except OSError:  # Linux reports the end of the program as an error
                break
            if not data:
                break
            stream.feed(data)
            shown = [line.rstrip() for line in screen.display]
            if shown != screens[-1]:
                screens.append(shown)
        process.wait()
    os.close(master_fd)
    return Session(process.returncode, screens)
