"""Serves a folder on a web server, with or without ranges."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path


class Ranged(http.server.SimpleHTTPRequestHandler):
    """Serves files; `/busy` and `/moved` imitate other responses."""

    ranges = True

    def do_GET(self) -> None:
        """Answers a request for a file or a range of it."""
        if self.path.startswith("/busy"):
            return self.send_error(503)
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            return self.end_headers()
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        data, requested_range = path.read_bytes(), self.headers.get("Range")
        whole = len(data)
        first = last = 0
        if requested_range and self.ranges:
            first, last = map(int, requested_range.removeprefix("bytes=").split("-"))
            if first >= whole:
                return self.send_error(416)
            data = data[first : last + 1]
        self.send_response(206 if requested_range and self.ranges else 200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        if requested_range and self.ranges:
            self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{whole}")
        self.end_headers()
        self.wfile.write(data)
        return None

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


class Whole(Ranged):
    """A server that ignores ranges."""

    ranges = False


@contextlib.contextmanager
def serve(folder: Path, handler: type[Ranged] = Ranged) -> Iterator[str]:
    """Serves a folder, and yields its address."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
