"""Shared fixtures (a browser, emulated object stores), and the option that limits skipped tests.

Skipped tests are easily overlooked. With `--count-skips`, which CI passes, the run fails when a
file skips more tests than `allowed_skips.txt` allows.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from tests import emulators

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--count-skips",
        action="store_true",
        help="fail when a file skips more tests than tests/allowed_skips.txt allows",
    )


def read_allowed_skips(text: str) -> dict[str, int]:
    """Reads file -> number of tests that it may skip, from lines `NUMBER FILE  REASON`."""
    rows = [line.split(maxsplit=2) for line in text.splitlines() if line and line[0] != "#"]
    return {file: int(number) for number, file, _ in rows}


def count_excess_skips(files: list[str], allowed: dict[str, int]) -> dict[str, int]:
    """Returns file -> number of skipped tests, for the files that skip more than they may."""
    return {file: n for file, n in Counter(files).items() if n > allowed.get(file, 0)}


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--count-skips"):
        return
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    files = [report.nodeid.partition("::")[0] for report in reporter.stats.get("skipped", [])]
    excess = count_excess_skips(files, read_allowed_skips(ALLOWED_SKIPS.read_text()))
    for file, number in excess.items():
        reporter.write_line(f"ERROR: {file} skips {number} tests; see {ALLOWED_SKIPS.name}")
    if excess:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running Chromium."""
    from tests.pages import launch_browser

    with launch_browser() as running:
        yield running


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """`visit()` opens the page at the module's `address`: see `tests.pages.open_pages`."""
    from tests.pages import open_pages

    with open_pages(browser, address) as open_page:
        yield open_page


@pytest.fixture(scope="session")
def s3() -> Iterator[fs.FileSystem]:
    """A server with a bucket `data`, whose address is set in the environment.

    All tests share one server, because open connections keep its address.
    """
    pytest.importorskip("moto.server", reason="pip install 'moto[server]' serves the S3 API")
    port = emulators.free_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    with emulators.running(command, port, settings, timeout_s=60):
        store, bucket = fs.FileSystem.from_uri("s3://data?allow_bucket_creation=true")
        store.create_dir(bucket)
        yield store


@pytest.fixture(scope="session", params=["google", "azure"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of an emulated bucket or container of Google Cloud or Azure."""
    with getattr(emulators, request.param)(tmp_path_factory.mktemp(request.param)) as address:
        yield address
