"""A small model hub in this process that accepts uploads of folders.

It asks for every file within the commit, as the real hub does for small files. The protocol for
large files is not imitated.
"""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Accepts repositories and commits while it is used as a context."""

    def __init__(self) -> None:
        self.created: dict[str, bool] = {}
        """Repository -> whether it was created private."""
        self.files: dict[str, dict[str, bytes]] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self._answer(hub.handle_post(self.path, self._body()))

            def do_GET(self) -> None:
                self._answer({"id": "x", "siblings": []})

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    parts = []
                    while size := int(self.rfile.readline(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _answer(self, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                del args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle_post(self, path: str, body: bytes) -> Any:
        """Returns the answer to one request."""
        if path == "/api/repos/create":
            request = json.loads(body)
            repo = f"{request.get('organization') or 'someone'}/{request['name']}"
            self.created[repo] = request.get("private", request.get("visibility") == "private")
            return {"url": f"{self.address}/{repo}"}
        if "/preupload/" in path:
            return {"files": [
                {"path": file["path"], "shouldIgnore": False, "uploadMode": "regular"}
                for file in json.loads(body)["files"]
            ]}  # fmt: skip
        if "/commit/" in path:
            repo = path.removeprefix("/api/models/").partition("/commit/")[0]
            self._commit(repo, [json.loads(line) for line in body.splitlines()])
            return {"commitUrl": f"{self.address}/{repo}/commit/{'0' * 40}",
                    "commitOid": "0" * 40, "hookOutput": ""}  # fmt: skip
        return {}

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = self.files.setdefault(repo, {})
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
