"""A proxy for an object store that can drop connections or report expired credentials."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlparse

Mode = Literal["open", "away", "expired"]

EXPIRED = (
    b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code>"
    b"<Message>The provided token has expired.</Message></Error>"
)


class FlakyStore:
    """Forwards connections to a server while `mode` is `open`."""

    def __init__(self, target: str) -> None:
        address = urlparse(target)
        self._target = address.hostname or "", address.port or 80
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.mode: Mode = "open"
        self.requests = 0
        """Number of connections that were not forwarded."""
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(client,), daemon=True).start()

    def _handle(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self.mode == "open":
                with socket.create_connection(self._target) as server:
                    other = threading.Thread(target=self._copy, args=(server, client), daemon=True)
                    other.start()
                    self._copy(client, server)
                    other.join(5)
                return
            self.requests += 1
            if self.mode == "expired":
                client.recv(1 << 16)
                head = (
                    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\n"
                    f"Content-Length: {len(EXPIRED)}\r\nConnection: close\r\n\r\n"
                )
                client.sendall(head.encode() + EXPIRED)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        """Copies until a side closes; a change of mode ends the connection at the next bytes."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.mode != "open":
                    break
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def flaky(target: str) -> Iterator[FlakyStore]:
    """Runs a proxy for the duration of a test."""
    store = FlakyStore(target)
    try:
        yield store
    finally:
        store.close()
