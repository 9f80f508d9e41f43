"""A small real HTTP server that speaks enough of the API for the command line, and a way to run commands against it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from typer.testing import CliRunner, Result

from api.cli.main import app

KEY = "sk-test"
MODEL = "ft:tiny:attune::abcd1234"
FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": 12,
    "created_at": 1,
    "filename": "rows.jsonl",
    "purpose": "fine-tune",
}


OWN_KEY = {
    "id": "key_1",
    "name": "mine",
    "scope": "write",
    "redacted_value": "sk-attune-abcd…",
    "expires_at": None,
    "current": True,
}

CATALOG = {
    "object": "fine_tuning.catalog",
    "techniques": [{"type": "lora", "summary": "Low rank."}],
    "methods": [{"type": "dpo", "summary": "Prefer."}],
    "formats": [],
    "graders": [],
    "base_models": [{"id": "tiny", "kind": "causal_lm", "facts": {"model_type": "llama", "parameters": 1000}}],
    "judges": [],
    "combinations": [
        {"technique": name, "method": "dpo", "kind": "encoder", "legal": False, "reason": "not so", "families": None}
        for name in ("lora", "full")
    ],
}


def job(status: str = "running", **fields: Any) -> dict[str, Any]:
    base = {
        "id": "ftjob-1",
        "status": status,
        "model": "tiny",
        "created_at": 1,
        "finished_at": None,
        "fine_tuned_model": MODEL if status == "succeeded" else None,
        "training_file": "file-1",
        "result_files": [],
        "hyperparameters": {"n_epochs": 3},
        "error": None,
        "trained_tokens": 1234 if status == "succeeded" else None,
    }
    return {**base, **fields}


def pipeline(status: str = "running") -> dict[str, Any]:
    """Two stages, which are both the job of this server."""
    shared = {"job_id": "ftjob-1", "status": "queued", "technique": "lora", "model": "tiny", "fine_tuned_model": None}
    stages = [
        {"name": "sft", "method": "supervised", "needs": [], **shared},
        {"name": "dpo", "method": "dpo", "needs": ["sft"], **shared},
    ]
    return {"id": "ftpipe-1", "status": status, "model": "tiny", "created_at": 1, "stages": stages}


def message(n: int, text: str) -> dict[str, Any]:
    return {"id": f"ftevent-{n}", "created_at": n, "level": "info", "message": text, "type": "message", "data": {}}


def metrics(n: int, step: int, total: int = 4) -> dict[str, Any]:
    data = {"step": step, "total_steps": total, "train_loss": 1 / step, "tokens_per_second": 200.0}
    return {**message(n, f"Step {step}/{total}: training loss={1 / step:.2f}"), "type": "metrics", "data": data}


@dataclass
class FakeServer:
    """What it answers, and what it was asked."""

    base_url: str = ""
    scenes: list[tuple[dict[str, Any], list[dict[str, Any]]]] = field(default_factory=list)
    """The job and its events so far (oldest first), a scene for each time the job is asked for; the last stays."""
    outages: int = 0
    """So many of the next requests are answered 503."""
    refuses: dict[str, int] = field(default_factory=dict)
    """{method and path: status of each answer}."""
    artifacts: dict[str, bytes] = field(default_factory=dict)
    listed_sha256: dict[str, str] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of further paths."""
    asked: dict[str, Any] | None = None
    """The body of a POST to one of them."""
    created: dict[str, Any] | None = None
    uploaded: bytes | None = None
    said: list[str] = field(default_factory=list)
    """What a model answers, piece by piece."""
    requests: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    """The project's files, newest first."""

    def get(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path in self.answers:
            return 200, self.answers[path]
        if path == "/session":
            return 200, {"project": "team", "scope": "write", "key": {"id": "key_1"}}
        if path == "/v1/keys":
            return 200, page([OWN_KEY], query)
        if path == "/v1/files":
            return 200, page(self.files, query)
        if path == "/v1/files/file-1":
            return 200, FILE | {"sha256": self.listed_sha256.get("file-1")}
        if path == "/v1/files/file-1/content":
            return 200, b'{"prompt":"a"}\n\x1b[31mred\n'
        if path == "/v1/fine_tuning/jobs/ftjob-1":
            current, self.events = self.scenes.pop(0) if len(self.scenes) > 1 else self.scenes[0]
            return 200, current
        if path == "/v1/fine_tuning/jobs/ftjob-1/attempts":
            workers = ("gpu-7:prepare-0:ab12", "gpu-8:train-1:cd34")
            return 200, {"object": "list", "data": [{"worker": worker} for worker in workers], "has_more": False}
        if path == "/v1/fine_tuning/jobs/ftjob-1/events":
            wanted = [
                e for e in self.events if query.get("type", e["type"]) == e["type"] or e["id"] == query.get("after")
            ]
            return 200, page(wanted[::-1], query)
        if path == "/v1/fine_tuning/jobs/ftjob-1/log":
            return 200, b"=== training from 2026\nloss \x1b[31mred\n"
        if path == "/v1/fine_tuning/jobs":
            return 200, page([job("succeeded"), job("failed", id="ftjob-\x1b[2J2")], query)
        if path == "/v1/fine_tuning/pipelines":
            return 200, page([pipeline()], query)
        if path == "/v1/fine_tuning/pipelines/ftpipe-1":
            return 200, pipeline()
        if path == "/v1/fine_tuning/catalog":
            return 200, CATALOG
        prefix = f"/v1/models/{MODEL}/artifacts"
        if path == prefix:
            listed = [
                {"name": n, "bytes": len(b), "sha256": self.listed_sha256.get(n, hashlib.sha256(b).hexdigest())}
                for n, b in self.artifacts.items()
                if next((form for form in ("merged", "gguf") if n.startswith(f"{form}/")), None) == query.get("format")
            ]
            return 200, {"object": "list", "data": listed}
        if path.startswith(prefix + "/"):
            return 200, self.artifacts[path.removeprefix(prefix + "/")]
        return 404, refusal("No such object", param="id")

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/v1/files":
            self.uploaded = body
            return 200, FILE
        if path == "/v1/fine_tuning/jobs":
            self.created = json.loads(body)
            return 200, job("validating_files")
        if path == "/v1/fine_tuning/pipelines":
            self.created = json.loads(body)
            return 200, pipeline()
        if path == "/v1/fine_tuning/pipelines/ftpipe-1/cancel":
            return 200, pipeline("cancelled")
        if path == "/v1/chat/completions":
            self.asked = json.loads(body)
            return 200, events(self.said) if self.asked.get("stream") else {"id": "chatcmpl-1"}
        if path in self.answers:
            self.asked = json.loads(body)
            return 200, self.answers[path]
        if path == "/v1/fine_tuning/estimates":
            return 400, refusal("No such File object", param="training_file", code="file_not_found")
        if path == "/v1/fine_tuning/jobs/ftjob-1/pause":
            return 200, job("running")
        return 400, refusal("the job has ended")


def page(objects: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    ids = [each["id"] for each in objects]
    start = ids.index(query["after"]) + 1 if "after" in query else 0
    end = start + min(int(query.get("limit", 20)), 2)  # small pages, so that every listing turns some
    return {"object": "list", "data": objects[start:end], "has_more": end < len(objects)}


def events(pieces: list[str]) -> bytes:
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": "length"})
    lines = [json.dumps({"choices": [choice]}, ensure_ascii=False) for choice in choices]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


def refusal(text: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": text, "type": "invalid_request_error", "param": param, "code": code}}


class Handler(BaseHTTPRequestHandler):
    state: FakeServer

    def do_GET(self) -> None:
        self.answer(b"")

    def do_DELETE(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    def answer(self, body: bytes) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), {name: values[0] for name, values in parse_qs(url.query).items()}
        self.state.requests.append(f"{self.command} {path}")
        content: dict[str, Any] | bytes
        if self.headers["authorization"] != f"Bearer {KEY}":
            status, content = 401, refusal("Incorrect API key provided")
        elif self.state.outages > 0:
            self.state.outages -= 1
            status, content = 503, refusal("starting")
        elif (asked := f"{self.command} {path}") in self.state.refuses:
            status, content = self.state.refuses[asked], refusal(f"not now: {asked}")
        elif self.command == "DELETE":
            status, content = 200, {"deleted": True}
        else:
            status, content = self.state.get(path, query) if self.command == "GET" else self.state.post(path, body)
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        if (part := self.headers["range"]) is not None:
            self.state.ranges.append(part)
            status, raw = 206, raw[int(part.removeprefix("bytes=").rstrip("-")) :]
        self.send_response(status)
        self.send_header("x-request-id", "req_1")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """Answers in a thread; the environment names it and holds the key."""
    state = FakeServer(scenes=[(job(), [])])
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    state.base_url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    monkeypatch.setenv("ATTUNE_BASE_URL", state.base_url)
    monkeypatch.setenv("ATTUNE_API_KEY", KEY)
    Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield state
    http.shutdown()
    http.server_close()


def attune(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])
