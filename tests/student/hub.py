"""A small hub in this process: the calls by which a folder is published, taken as it takes them.

It asks for every file within the commit, as the real one does for small files; large files travel
by a protocol of their own, which is huggingface_hub's business.
"""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Takes repositories and commits until it is left."""

    def __init__(self) -> None:
        self.made: dict[str, bool] = {}
        """Repository -> whether it was made private."""
        self.files: dict[str, dict[str, bytes]] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self._answer(hub.posted(self.path, self._body()))

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

    def posted(self, path: str, body: bytes) -> Any:
        """The answer to one call."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            self.made[repo] = asked.get("private", asked.get("visibility") == "private")
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
