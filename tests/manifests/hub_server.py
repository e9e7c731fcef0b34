"""Serves datasets in folders `base/org/name` over HTTP with the endpoints of a hub."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

COMMIT = "a" * 40


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Answers for one revision of each dataset."""

    protocol_version = "HTTP/1.1"
    base: Path
    requests: list[str]

    def do_GET(self) -> None:
        """Answers a request about a repository or for a file."""
        url = urllib.parse.urlparse(self.path)
        path = urllib.parse.unquote(url.path).strip("/")
        self.requests.append(f"{self.command} {path} {self.headers.get('Range') or ''}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = path.split("/")
        if parts[:2] == ["api", "datasets"]:
            return self._api("/".join(parts[2:4]), parts[4:], body)
        if parts[0] == "datasets" and parts[3] == "resolve":
            return self._file(self.base / parts[1] / parts[2] / "/".join(parts[5:]))
        return self._answer(404, {}, b"")

    do_HEAD = do_POST = do_GET

    def _api(self, name: str, rest: list[str], body: bytes) -> None:
        folder = self.base / name
        if not folder.is_dir():
            return self._answer(404, {"X-Error-Code": "RepoNotFound"}, b"")
        if rest[:1] == ["tree"]:
            below = folder.joinpath(*rest[2:])
            if not below.exists():
                return self._answer(404, {"X-Error-Code": "EntryNotFound"}, b"")
            entries = [self._entry(folder, path) for path in sorted(below.rglob("*"))]
            return self._json(entries)
        if rest[:1] == ["paths-info"]:
            fields = json.loads(body) if body[:1] == b"{" else urllib.parse.parse_qs(body.decode())
            paths = [folder / path for path in fields.get("paths", [])]
            return self._json([self._entry(folder, path) for path in paths if path.exists()])
        siblings = [
            {"rfilename": str(path.relative_to(folder))}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        return self._json(
            {"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings,
             "downloads": 0, "likes": 0, "gated": False, "disabled": False}
        )  # fmt: skip

    def _entry(self, folder: Path, path: Path) -> dict:
        name = str(path.relative_to(folder))
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        digest = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "path": name, "oid": digest, "size": path.stat().st_size}

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._answer(404, {"X-Error-Code": "EntryNotFound"}, b"")
        data = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not match:
            return self._answer(200, headers, data)
        first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self._answer(206, headers, data[first : last + 1])

    def _json(self, value: object) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@contextlib.contextmanager
def serve_hub(base: Path) -> Iterator[tuple[str, list[str]]]:
    """Serves a hub, and yields its address and the list of requests that it receives."""
    handler = type("Handler", (HubHandler,), {"base": base, "requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.requests
    finally:
        server.shutdown()
        server.server_close()
