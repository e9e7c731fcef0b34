"""Tests for the token of a local cluster, and for signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.errors import Interrupted
from pipeline.build.environment import StopSignal, advice_on_connecting

SHOW_TOKEN = (
    "import os; from pipeline.build.environment import prepare; prepare(local={});"
    "print(os.environ.get('RAY_AUTH_MODE'), len(os.environ.get('RAY_AUTH_TOKEN', '')))"
)


@pytest.mark.parametrize(("local", "printed"), [(True, "token 64"), (False, "None 0")])
def test_local_cluster_gets_its_own_token(local: bool, printed: str):
    """In the mode `token`, Ray rejects clients without this token."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", SHOW_TOKEN.format(local)]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed


def test_advice_on_connecting_names_the_token_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert "run the command with RAY_AUTH_MODE=token" in advice_on_connecting()
    assert "there is one" not in advice_on_connecting()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    assert "(there is one in ~/.ray/auth_token)" in advice_on_connecting()
    no_cluster = "Could not find any running Ray instance. Please specify the one to connect to."
    assert "RAY_AUTH_MODE" not in advice_on_connecting(no_cluster)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    advice = advice_on_connecting()
    assert "RAY_AUTH_MODE" not in advice
    assert "correct --ray-address, start a cluster with `ray start --head`" in advice


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_raises_interrupted_at_the_next_check(number: int, code: int):
    stop = StopSignal()
    with stop.installed():
        stop.check()
        for _ in range(3):
            os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as ended:
            stop.check()
        stop._received = None  # Otherwise the earlier handlers are not restored.
    assert ended.value.exit_code == code


def test_process_that_ray_keeps_from_ending_prints_its_message():
    """Under load, Ray took longer than the process waits, which then ended without a word."""
    program = (
        "import os, signal, time\n"
        "from pipeline.build import environment\n"
        "environment.SHUTDOWN_S = 0.3\n"
        "with environment.StopSignal().installed():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 143
    assert done.stderr == "coat-cache: interrupted; run the same command to resume\n"
