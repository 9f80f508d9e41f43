"""A server that speaks the part of vLLM's API that a sampler needs, and answers as it is told."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "key-of-the-server"
ERROR = {"error": {"message": "This model's maximum context length is 8 tokens.", "type": "BadRequestError"}}


def chunk(tokens: int, index: int = 0, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    """A chunk of a chat's answer, with the usage so far."""
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    logprobs = delta.pop("logprobs", None)
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice], "usage": usage}


HELLO = [
    chunk(0, role="assistant", content=""),
    chunk(1, content="Hel"),
    chunk(2, content="lo\u2028"),
    chunk(3, finish_reason="stop"),
]


@dataclass
class Vllm:
    """What the server has, what it was asked, and what it answers."""

    url: str = ""
    adapters: dict[str, Path] = field(default_factory=dict)
    chunks: list[dict[str, Any]] = field(default_factory=lambda: HELLO)
    context: int = 100
    """Tokens of a prompt, which has 7, and its answer together."""
    status: int = 200
    """Of answers."""
    away: bool = False
    """Whether it is away: every request gets a 503."""
    endless: bool = False
    """Whether the last chunk is repeated until the client goes away."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    loads: int = 0
    hangs_up: bool = False
    """Whether it loads adapters without an answer."""
    keeps: bool = False
    """Whether it keeps adapters that it is asked to unload, and answers with an error."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set once a client has gone away."""


class Handler(BaseHTTPRequestHandler):
    vllm: Vllm

    def do_GET(self) -> None:
        models = [{"id": name} for name in ("served", *self.vllm.adapters)]
        self._reply(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        vllm, body = self.vllm, json.loads(self.rfile.read(int(self.headers["content-length"])))
        match self.path:
            case "/v1/load_lora_adapter":
                vllm.loads += 1
                path = Path(body["lora_path"])
                found = (path / "adapter_model.safetensors").is_file()
                known = body["lora_name"] in vllm.adapters
                if found:
                    vllm.adapters[body["lora_name"]] = path
                if not vllm.hangs_up:
                    self._reply(400 if known else 200 if found else 404, {})
            case "/tokenize":
                assert body["messages"]
                self._reply(200, {"count": 7, "max_model_len": self.vllm.context, "tokens": []})
            case "/v1/unload_lora_adapter":
                if vllm.keeps:
                    self._reply(500, {})
                else:
                    self._reply(200 if vllm.adapters.pop(body["lora_name"], None) else 404, {})
            case _ if body["model"] not in ("served", *vllm.adapters):
                self._reply(404, {"error": {"message": "The model does not exist."}})
            case _:
                vllm.asked.append(body)
                self._answer(fits=7 + body["max_tokens"] <= vllm.context)

    def _answer(self, *, fits: bool) -> None:
        vllm = self.vllm
        if vllm.status != 200 or not fits:
            return self._reply(vllm.status if fits else 400, ERROR)
        self.send_response(200)
        self.end_headers()
        try:
            for each in vllm.chunks:
                self._send(each)
            while vllm.endless:
                self._send(vllm.chunks[-1])
            usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
            self._send(usage)
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            vllm.gone.set()
        return None

    def _send(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode())

    def _reply(self, status: int, body: object) -> None:
        if self.vllm.away:
            status = 503
        if self.headers["authorization"] != f"Bearer {KEY}":
            status = 401
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def vllm_stand_in() -> Iterator[Vllm]:
    vllm = Vllm()
    handler = type("Bound", (Handler,), {"vllm": vllm})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        vllm.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield vllm
        server.shutdown()
