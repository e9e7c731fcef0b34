"""Tests for errors of the environment: stores, buckets, full disks, closed or limited outputs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.clips import Clip
from manifests.console import console, run_command, to_json
from manifests.corpus import stats
from manifests.corpus.corpus import build
from manifests.errors import StoreError


def run_and_exit(error: BaseException, capsys: pytest.CaptureFixture) -> tuple[object, str]:
    def command() -> None:
        """Raises the error."""
        raise error

    with pytest.raises(SystemExit) as end:
        run_command("coat-x", {"go": command}, description="d", arguments=["go"])
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError("When reading information for key 'x' in bucket 'y': AWS Error NETWORK_CONNECTION "
                "during HeadObject operation: curlCode: 7,\n Couldn't connect to server"),
        OSError("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)"),
        StoreError("s3://data/a.wav: timed out"),
    ],
)  # fmt: skip
def test_unreachable_store_prints_one_line(error: OSError, capsys: pytest.CaptureFixture):
    code, printed = run_and_exit(error, capsys)
    assert code == 2
    assert printed.count("\n") == 1


def test_missing_bucket_prints_one_line(capsys: pytest.CaptureFixture):
    error = OSError("When listing objects in bucket 'y': AWS Error NO_SUCH_BUCKET during List")
    assert "there is no such bucket" in run_and_exit(error, capsys)[1]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/data/answers.jsonl"),
        OSError(122, "Disk quota exceeded"),
        OSError(27, "File too large"),
        OSError("4096 requested and 96 written"),
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_prints_one_line(error: Exception, capsys: pytest.CaptureFixture):
    code, printed = run_and_exit(error, capsys)
    assert code == 2
    assert printed.startswith("coat-x: error: cannot write")
    assert printed.count("\n") == 1


def test_full_output_device_prints_one_line():
    code = (
        "from manifests.console import run_command\n"
        "def go():\n    '''Prints.'''\n    print('x' * 100)\n"
        "run_command('coat-x', {'go': go}, description='d', arguments=['go'])\n"
    )
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ran.returncode == 2
    assert ran.stderr == (
        "coat-x: error: cannot write: No space left on device; free some space and run the same "
        "command again\n"
    )


def test_characters_outside_the_output_encoding_are_escaped():
    """A label in Hindi under a Latin locale used to end in a traceback."""
    code = (
        "from manifests.console import console, run_command\n"
        "def go():\n    '''Prints.'''\n"
        "    console.print('caf\\xe9 \\u0915')\n    print('\\u0915')\n"
        "run_command('coat-x', {'go': go}, description='d', arguments=['go'])\n"
    )
    for encoding in ("latin-1", "ascii"):
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        cafe = "caf\u00e9" if encoding == "latin-1" else "caf\\xe9"
        assert ran.stdout.decode(encoding) == f"{cafe} \\u0915\n\\u0915\n"


def test_other_os_errors_keep_their_traceback():
    def command() -> None:
        """Raises the error."""
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        run_command("coat-x", {"go": command}, description="d", arguments=["go"])


def test_closed_output_exits_with_code_141():
    code = (
        "from manifests.console import run_command\n"
        "def go():\n    '''Prints.'''\n    for _ in range(100000): print('x' * 100)\n"
        "run_command('coat-x', {'go': go}, description='d', arguments=['go'])\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.read(10)
    writer.stdout.close()
    assert writer.wait(60) == 141
    assert writer.stderr.read() == b""


def test_json_writes_infinity_and_nan_as_null():
    value = {"a": [math.inf, {"b": math.nan}], "c": 1.5}
    assert json.loads(to_json(value)) == {"a": [None, {"b": None}], "c": 1.5}


@pytest.mark.parametrize("text", ["[noise]", "a [/INAUDIBLE] b", "x[/b]", ":warning:", "[red]"])
def test_texts_with_markup_are_printed_literally(text: str, tmp_path: Path):
    clips = [
        Clip(clip_id=f"{text}{index}", uri="/a.wav", labels={text: text}) for index in range(2)
    ]
    corpus = build(clips, tmp_path / "corpus")
    with console.capture() as captured:
        console.print(stats.build_table(stats.collect(corpus.tables())))
    assert captured.get().count(text) >= 3
