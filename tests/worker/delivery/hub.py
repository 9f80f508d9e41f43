"""As much of a Hugging Face hub as a push of small files needs."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.refuses_with: int | None = None
        self.public = False
        """The repository is there already, for all to read."""
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.keys: set[str | None] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.keys.add(self.headers.get("authorization"))
        status = self.server.refuses_with or 200
        answer = {"error": "no"} if self.server.refuses_with else self._answer(self.path, body)
        sent = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def _answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            return {"url": f"{self.server.url}/team/tuned"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": f"{self.server.url}/team/tuned/commit/abc", "commitOid": "abc", "success": True}
        return {"sha": "abc", "id": "team/tuned", "siblings": [], "private": not self.server.public}
