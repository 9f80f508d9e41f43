"""An HTTP proxy before the server that counts attempts, and answers itself where a request asks for an error."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

NOT_FORWARDED = {"host", "connection", "transfer-encoding", "content-length"}


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = target
        self.attempts: Counter[str] = Counter()
        """How often each request came that names itself in `x-attempt-of`: a retry comes with the same name."""
        self.client = httpx.Client(trust_env=False, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
        """One for all requests, because a new one reads the public certificates, 30 ms; each has a new connection."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def proxy_before(base_url: str) -> Iterator[Proxy]:
    with Proxy(base_url.removesuffix("/v1")) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()
        proxy.client.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if name := self.headers.get("x-attempt-of"):
            self.server.attempts[name] += 1
        if injected := self.headers.get("x-inject"):
            self._inject(int(injected))
        else:
            self._forward(body)

    do_GET = do_POST = do_DELETE = do_PATCH = handle_any  # noqa: N815 (the base class names them so)

    def _inject(self, status: int) -> None:
        error = {"message": "injected", "type": "server_error", "param": None, "code": f"injected_{status}"}
        # Retries are to be counted, not waited for.
        headers = {"content-type": "application/json", "retry-after-ms": "1"}
        self._answer(status, headers, json.dumps({"error": error}).encode())

    def _forward(self, body: bytes) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_FORWARDED}
        url = self.server.target + self.path
        answer = self.server.client.request(self.command, url, headers=headers, content=body)
        kept = {name: answer.headers[name] for name in ("content-type", "x-request-id") if name in answer.headers}
        self._answer(answer.status_code, kept, answer.content)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the tests look at what was counted."""
