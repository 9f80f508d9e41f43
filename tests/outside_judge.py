"""Someone's server with OpenAI's API, whose model judges as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Said:
    """One answer."""

    result: float | str = 1.0
    text: str | None = None
    """In place of a judgement with the result."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """In place of a completion with the text."""
    after_s: float = 0.0

    @property
    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        text = self.text if self.text is not None else json.dumps({"steps": [], "result": self.result})
        message = {"role": "assistant", "content": text, "refusal": None}
        usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        completion = {"id": "c", "object": "chat.completion", "created": 1, "model": "strict-2026", "choices": [choice]}
        return json.dumps(completion | {"usage": usage}).encode()


Script = Callable[[int, dict[str, Any]], Said]
"""(number of the request from 0, its body) → the answer."""


class OutsideServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.asked: list[dict[str, Any]] = []
        """The bodies of all requests."""
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def settings(self) -> dict[str, Any]:
        """Of an Attune whose graders may name it `strict`."""
        return {"judge_url": f"http://127.0.0.1:{self.server_port}/v1", "judge_models": "strict=strict-model"}


class Handler(BaseHTTPRequestHandler):
    server: OutsideServer

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            number = len(server.asked)
            server.asked.append(body)
            server.keys.append(self.headers["authorization"])
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        assert self.path == "/v1/chat/completions"
        said = server.script(number, body)
        time.sleep(said.after_s)
        with server.lock:
            server.at_once -= 1
        self.send_response(said.status)
        for name, value in {"content-length": str(len(said.content)), **said.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(said.content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the tests look at what was kept."""


@contextmanager
def outside_judge(script: Script) -> Iterator[OutsideServer]:
    with OutsideServer(script) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fails_at(bad: str, trouble: Said) -> Script:
    """This trouble for each question with the text `bad`. The answers to other questions come after the first such
    question."""
    is_asked = threading.Event()

    def script(number: int, body: dict[str, Any]) -> Said:
        if bad in body["messages"][0]["content"]:
            is_asked.set()
            return trouble
        return Said() if is_asked.wait(30) else Said(status=400)

    return script


def in_turn(*answers: Said) -> Script:
    """These answers one after the other; the last one for all later requests."""
    return lambda number, body: answers[min(number, len(answers) - 1)]
