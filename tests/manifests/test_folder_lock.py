"""Tests the lock of a folder on a disk, as builds of corpora and training runs hold it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from manifests.corpus.build_folder import open_build
from manifests.errors import UserError
from manifests.folder_lock import folder_lock
from manifests.storage import Folder
from student.runs.folder import Run


def hold_build(folder: Path) -> contextlib.AbstractContextManager[Any]:
    return open_build(Folder(folder))


def hold_training(folder: Path) -> contextlib.AbstractContextManager[Any]:
    return Run(folder).lock()


USES = {hold_build: ".build.lock", hold_training: "training.lock"}


@pytest.fixture(params=USES, ids=lambda hold: hold.__name__)
def hold(request: pytest.FixtureRequest) -> Any:
    """Provides each use of the lock."""
    return request.param


def test_second_holder_is_refused_and_the_first_is_named(tmp_path: Path, hold: Any) -> None:
    mine = f"process {os.getpid()} on {socket.gethostname()}"
    with hold(tmp_path / "out"):
        for _ in range(2):  # A refused process leaves the lock's file alone.
            with (
                pytest.raises(UserError, match=rf"another .*{re.escape(mine)}"),
                hold(tmp_path / "out"),
            ):
                pass
    assert not (tmp_path / "out").exists(), "nothing was written, so nothing is left"


def test_lock_file_of_a_dead_process_has_no_effect(tmp_path: Path, hold: Any) -> None:
    (tmp_path / USES[hold]).write_text("process 1 on another-host")
    with hold(tmp_path):
        pass
    with hold(tmp_path):
        pass


def test_killed_holder_frees_the_folder(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib, manifests.folder_lock as lock\n"
        "with lock.folder_lock(pathlib.Path(sys.argv[1]), 'x', what='build'):\n"
        "    print(1, flush=True)\n"
        "    time.sleep(99)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"1\n"
    with (
        pytest.raises(UserError, match=f"process {holder.pid}"),
        folder_lock(tmp_path, "x", what="build"),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with folder_lock(tmp_path, "x", what="build"):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_gives_a_warning(
    tmp_path: Path, hold: Any, code: int,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Some network mounts have none: work continues with a warning."""
    monkeypatch.setattr("fcntl.flock", lambda *_: fail(code))
    with hold(tmp_path / "out"):
        (tmp_path / "out" / "made").write_text("")
    assert "a file system without locks" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == ["made"]


def test_failing_disk_is_reported_in_one_line(
    tmp_path: Path, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: fail(errno.EIO))
    with pytest.raises(UserError, match=r"cannot be used as a folder: .*error"), hold(tmp_path):
        pass


def fail(code: int) -> None:
    raise OSError(code, os.strerror(code))
