"""Runs emulators of object stores (S3, Google's, Azure's) in separate processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from manifests import connections

AZURITE = "COAT_AZURITE"
"""Environment variable with the path of azurite-blob, if it is not on the PATH."""
NO_PROXY = ("no_proxy", "NO_PROXY")
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's default key, from its documentation."""


@contextlib.contextmanager
def google(folder: Path) -> Iterator[str]:
    """Serves a bucket of Google Cloud Storage; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--in-memory", "--quiet", "--default-bucket", "data"]
    with running(command, port, {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}):
        yield "gs://data"


@contextlib.contextmanager
def azure(folder: Path) -> Iterator[str]:
    """Serves a container of Azure's Blob Storage by Azurite; yields its address."""
    program = os.environ.get(AZURITE) or shutil.which("azurite-blob")
    if program is None:
        pytest.skip(f"npm install azurite, and set {AZURITE} to .../node_modules/.bin/azurite-blob")
    port = free_port()
    command = [program, "--silent", "--inMemoryPersistence", "--disableTelemetry"]
    command += ["--skipApiVersionCheck", "--blobPort", str(port)]
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
    )
    with running(command, port, {"AZURE_STORAGE_CONNECTION_STRING": connection}, cwd=folder):
        address = f"abfs://data@{ACCOUNT}.dfs.core.windows.net"
        store = connections.connect_azure(address)
        assert isinstance(store, fs.AzureFileSystem)
        store.create_dir("data")
        yield address


def free_port() -> int:
    """Returns a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def running(
    command: list[str],
    port: int,
    settings: dict[str, str],
    *,
    cwd: Path | None = None,
    timeout_s: float = 120,
) -> Iterator[None]:
    """Runs a server until the context ends, with its address in the environment.

    Args:
        command: Command line of the server.
        port: Port on which the server listens.
        settings: Environment variables to set meanwhile.
        cwd: Working directory of the server.
        timeout_s: Seconds after which a server that does not listen fails the test.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=cwd, **quiet)
    try:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in {**settings, **dict.fromkeys(NO_PROXY, "127.0.0.1")}.items():
                environment.setenv(name, value)
            _clear_connections()
            deadline = time.monotonic() + timeout_s
            while True:
                with socket.socket() as client:
                    if not client.connect_ex(("127.0.0.1", port)):
                        break
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)
            yield
    finally:
        server.kill()
        server.wait()
        _clear_connections()


def _clear_connections() -> None:
    connections.connect_google.cache_clear()
    connections.connect_azure.cache_clear()
