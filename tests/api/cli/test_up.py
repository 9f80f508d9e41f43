"""`attune up`, without the processes that it starts."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from api.cli.up import _is_ready


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_api_is_asked_without_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        asked = Thread(target=server.handle_request, daemon=True)
        asked.start()
        assert _is_ready(f"http://127.0.0.1:{server.server_port}/readyz")
        asked.join()
