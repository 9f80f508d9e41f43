"""A server that does what OpenAI does and an Attune server does not: rate limits, expired files, deleted models, result
files in base64. It counts what it has handed out, and can kill the command that asks."""

import base64
import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.api.cli.conftest import attune, page

KEY = "sk-of-the-source-0123456789"
BASE = "gpt-4o-mini-2024-07-18"
MODELS = [f"ft:{BASE}:acme:cards:aaaa1111", f"ft:{BASE}:acme::bbbb2222", f"ft:{BASE}:acme::cccc3333"]
DELETED = MODELS[1]
METRICS = b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,2.5,0.4,,\n2,2.1,0.5,2.2,0.5\n"


def row(number: int) -> dict[str, Any]:
    turns = [("user", f"What is {number} + {number}?"), ("assistant", str(2 * number))]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def lines(*documents: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


TRAINING = lines(*(row(number) for number in range(12)))
VALIDATION = lines(*(row(number) for number in range(100, 104)))
CONTENTS = {
    "file-training": TRAINING,
    "file-validation": VALIDATION,
    "file-results": base64.b64encode(METRICS),
    "file-plain": METRICS,
}
FILES: list[dict[str, Any]] = [
    {"id": "file-training", "purpose": "fine-tune", "filename": "rows.jsonl"},
    {"id": "file-validation", "purpose": "fine-tune", "filename": "../valid ation.jsonl"},
    {"id": "file-results", "purpose": "fine-tune-results", "filename": "step_metrics.csv"},
    {"id": "file-plain", "purpose": "fine-tune-results", "filename": "step_metrics.csv"},
    {"id": "file-expired", "purpose": "fine-tune", "filename": "old.jsonl", "expires_at": 1},
    {"id": "file-other", "purpose": "assistants", "filename": "unrelated.pdf"},
]


def job(number: int, **fields: Any) -> dict[str, Any]:
    method = {"n_epochs": 3, "batch_size": 2, "learning_rate_multiplier": 1.8}
    return {
        "id": f"ftjob-{number}",
        "object": "fine_tuning.job",
        "created_at": number,
        "finished_at": number + 1,
        "status": "succeeded",
        "model": BASE,
        "fine_tuned_model": MODELS[number],
        "organization_id": "org-acme",
        "training_file": "file-training",
        "validation_file": "file-validation",
        "result_files": ["file-results"],
        "hyperparameters": method,
        "method": {"type": "supervised", "supervised": {"hyperparameters": method}},
        "seed": 7,
        "user_provided_suffix": "cards" if number == 0 else None,
        "metadata": None,
        "error": {},
        **fields,
    }


JOBS = [
    job(0),
    job(1, result_files=["file-plain"], method=None),
    job(2, training_file="file-deleted", validation_file=None),
]
EVAL = {
    "id": "eval_1",
    "object": "eval",
    "name": "sums",
    "created_at": 1,
    "data_source_config": {
        "type": "custom",
        "schema": {
            "type": "object",
            "properties": {"item": {"type": "object", "properties": {"answer": {"type": "string"}}}, "sample": {}},
            "required": ["item", "sample"],
        },
    },
    "testing_criteria": [
        {
            "type": "string_check",
            "name": "equal",
            "operation": "eq",
            "input": "{{sample.output_text}}",
            "reference": "{{item.answer}}",
        }
    ],
    "metadata": {},
}
RUN = {"id": "evalrun_1", "object": "eval.run", "eval_id": "eval_1", "status": "completed", "created_at": 2}


def lists() -> dict[str, list[dict[str, Any]]]:
    files = [{"object": "file", "created_at": 1, "bytes": len(CONTENTS.get(f["id"], b"")), **f} for f in FILES]
    models = [{"id": name, "object": "model", "created": 1, "owned_by": "acme"} for name in MODELS if name != DELETED]
    found = {
        "/v1/fine_tuning/jobs": JOBS,
        "/v1/files": files,
        "/v1/models": models,
        "/v1/evals": [EVAL],
        "/v1/evals/eval_1/runs": [RUN],
        "/v1/evals/eval_1/runs/evalrun_1/output_items": [{"id": f"outputitem_{n}", "status": "pass"} for n in range(5)],
    }
    for each in JOBS:
        path = f"/v1/fine_tuning/jobs/{each['id']}"
        found[f"{path}/events"] = [{"id": f"{each['id']}-event-{n}", "message": f"Step {n}"} for n in range(5)]
        found[f"{path}/checkpoints"] = [
            {"id": f"ftckpt_{n}", "step_number": n, "fine_tuned_model_checkpoint": f"{each['fine_tuned_model']}:{n}"}
            for n in range(3)
        ]
    return found


@dataclass
class StandIn:
    base_url: str = ""
    lists: dict[str, list[dict[str, Any]]] = field(default_factory=lists)
    handed_out: Counter[str] = field(default_factory=Counter)
    """Requests that were answered whole, with their query or the hash of their body."""
    requests: int = 0
    ranges: list[str] = field(default_factory=list)
    other_methods: list[str] = field(default_factory=list)
    """Requests that could change something."""
    limit_every: int = 0
    """Each so many requests one is answered 429; 0: none."""
    retry_after: str = "0"
    """Sent with each 429."""
    evals_are_dark: bool = False
    without_logprobs: bool = False
    refused_logprobs: int = 0
    kill_at: int | None = None
    """The number of the request at which `victim` is killed."""
    kill_when: str = "before"
    """before, amid or after the response."""
    victim: int = 0

    def respond(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path.startswith("/v1/evals") and self.evals_are_dark:
            return 410, refusal("The Evals API has been shut down.")
        if path in self.lists:
            return 200, page(self.lists[path], query)
        parts = path.split("/")
        if path.startswith("/v1/files/") and parts[-1] == "content" and parts[3] in CONTENTS:
            return 200, CONTENTS[parts[3]]
        if path == "/v1/files/file-expired/content":
            return 410, refusal("The file has expired")
        return 404, refusal(f"No such object: {path}")

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Return a chat completion, with log-probabilities where the model has them."""
        if body["model"] == DELETED:
            return 404, refusal(f"The model {DELETED} does not exist", code="model_not_found")
        if self.without_logprobs and body.get("logprobs"):
            self.refused_logprobs += 1
            return 400, refusal("'logprobs' is not supported with this model.", param="logprobs")
        text = f"{body['model'][-4:]} answers {body['messages'][-1]['content']}"
        tokens: list[dict[str, Any]] = [
            {"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in text.split()
        ]
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
        }
        choice["logprobs"] = {"content": tokens} if body.get("logprobs") else None
        usage = {"prompt_tokens": 20, "completion_tokens": len(tokens), "total_tokens": 20 + len(tokens)}
        return 200, {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}

    def repeats(self) -> list[str]:
        return [request for request, count in self.handed_out.items() if count > 1]


def refusal(text: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": None, **fields}}


class Handler(BaseHTTPRequestHandler):
    state: StandIn

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.respond(f"GET {self.path}", *self.refused() or self.state.respond(unquote(url.path), query))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path != "/v1/chat/completions":
            self.state.other_methods.append(f"POST {self.path}")
        answer = self.refused() or self.state.answer(json.loads(content))
        self.respond(f"POST {hashlib.sha256(content).hexdigest()}", *answer)

    def do_DELETE(self) -> None:
        self.state.other_methods.append(f"DELETE {self.path}")
        self.respond(f"DELETE {self.path}", 404, refusal("no"))

    def refused(self) -> tuple[int, Any] | None:
        self.state.requests += 1
        if self.headers["authorization"] != f"Bearer {KEY}":
            return 401, refusal(f"Incorrect API key provided: {self.headers['authorization']}")
        if self.state.limit_every and self.state.requests % self.state.limit_every == 0:
            return 429, refusal("Rate limit reached", code="rate_limit_exceeded")
        return None

    def respond(self, request: str, status: int, content: Any) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        if status == 200 and (asked := self.headers["range"]) is not None:
            self.state.ranges.append(asked)
            status, raw = 206, raw[int(asked.removeprefix("bytes=").rstrip("-")) :]
        kill = self.state.kill_when if self.state.requests == self.state.kill_at else None
        if kill == "before":
            return self.kill()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        if status == 429:
            self.send_header("retry-after", self.state.retry_after)
        self.end_headers()
        if kill == "amid":
            self.wfile.write(raw[: len(raw) // 2])
            return self.kill()
        self.wfile.write(raw)
        if status < 300 or (status in (404, 410) and request.startswith("GET")):
            self.state.handed_out[request] += 1
        if kill == "after":
            self.kill()
        return None

    def kill(self) -> None:
        self.wfile.flush()
        while not self.state.victim:
            time.sleep(0.001)
        os.kill(self.state.victim, signal.SIGKILL)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def standing_in() -> Iterator[StandIn]:
    state = StandIn()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    state.base_url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield state
    http.shutdown()
    http.server_close()


def run_to_its_death(source: StandIn, *words: object) -> bool:
    """Run a command in a process of its own, which the source may kill. Return whether it did."""
    child = os.fork()
    if child == 0:
        try:
            attune(*words)
        finally:
            os._exit(0)
    source.victim = child
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
