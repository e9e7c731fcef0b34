"""Serves a model hub from a folder over HTTP.

It has the endpoints that huggingface_hub calls, with commits, entity tags and LFS digests.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Hub:
    """Repositories in folders `base/org/name`; a commit is a digest of their content."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.requests: list[str] = []

    def commit(self, model: str) -> str:
        digest = hashlib.sha1()
        for path in sorted((self.base / model).iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Returns the status, headers and body for a path."""
        url = urllib.parse.unquote(urllib.parse.urlparse(path).path).strip("/")
        self.requests.append(url)
        if url.startswith("api/models/"):
            parts = url.removeprefix("api/models/").split("/")
            model, rest = "/".join(parts[:2]), parts[2:]
            return self._api(model, rest)
        parts = url.split("/")
        model, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        file = self.base / model / name
        if not file.is_file() or not self._known(model, revision):
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        content = file.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": self.commit(model)}, content

    def _known(self, model: str, revision: str) -> bool:
        return revision in ("main", self.commit(model))

    def _api(self, model: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        folder = self.base / model
        if not folder.is_dir():
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such model"}, b""
        revision = rest[1] if len(rest) > 1 else "main"
        if not self._known(model, revision):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = []
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()
            entry = {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if path.suffix in (".safetensors", ".bin", ".h5"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(),
                                "oid": hashlib.sha256(content).hexdigest(),
                                "size": len(content), "pointerSize": 130}  # fmt: skip
            files.append((path.name, entry))
        if rest[:1] == ["tree"]:
            result: object = [{"type": "file", "path": name, **entry} for name, entry in files]
        else:
            siblings = [{"rfilename": name, "blobId": entry["oid"], **entry}
                        for name, entry in files]  # fmt: skip
            result = {"id": model, "modelId": model, "sha": self.commit(model), "tags": [],
                     "private": False, "downloads": 0, "likes": 0,
                     "siblings": siblings}  # fmt: skip
        return 200, {"Content-Type": "application/json"}, json.dumps(result).encode()


@contextmanager
def serve_hub(folder: Path) -> Iterator[tuple[Hub, str]]:
    """Serves a hub, and yields its repositories and its address."""
    repositories = Hub(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = repositories.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield repositories, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
