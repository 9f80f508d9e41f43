"""What end-to-end tests do as a user: through the unmodified client."""

import hashlib
import io
import json
import random
import tarfile
import time
from collections.abc import Callable
from typing import Any

from openai import OpenAI

from tests.services import AttuneUp

FINAL = ("succeeded", "failed", "cancelled")


def client_of(server: AttuneUp) -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=5)


def rows(count: int, seed: int = 0, words: int = 12) -> bytes:
    """Chat rows of random letters: enough for a tiny model to have something to do."""
    rng = random.Random(seed)

    def text() -> str:
        return " ".join("".join(rng.choices("abcdefgh", k=4)) for _ in range(words))

    lines = [
        {"messages": [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]}
        for _ in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def upload(client: OpenAI, content: bytes) -> str:
    return client.files.create(file=("rows.jsonl", content), purpose="fine-tune").id


def create(client: OpenAI, file_id: str, *, steps: int, **extra: Any) -> str:
    """A job of so many steps on the base model `tiny`."""
    training = {"max_steps": steps, "precision": "float32"} | extra.pop("training", {})
    hyperparameters = {"n_epochs": 50, "batch_size": 4}
    return client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file_id,
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},  # type: ignore[arg-type]
        extra_body={"training": training} | extra,
    ).id


def wait_until(what: Callable[[], bool], timeout_s: float = 120.0, *, every_s: float = 0.1) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(every_s)


def ended(client: OpenAI, job_id: str, timeout_s: float = 180.0) -> Any:
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job_id).status in FINAL, timeout_s, every_s=0.25)
    return client.fine_tuning.jobs.retrieve(job_id)


def step_of(client: OpenAI, job_id: str) -> int:
    progress = client.fine_tuning.jobs.retrieve(job_id).model_extra["progress"]  # type: ignore[index]
    return int((progress or {}).get("step", 0))


def messages(client: OpenAI, job_id: str) -> list[str]:
    """Of all events but metrics, oldest first."""
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=100))
    return [event.message for event in reversed(events) if event.type == "message"]


def metric_steps(client: OpenAI, job_id: str) -> list[int]:
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=100))
    return [event.data["step"] for event in reversed(events) if event.type == "metrics"]  # type: ignore[index]


def adapter_files(client: OpenAI, job_id: str) -> dict[str, bytes]:
    archive = client.fine_tuning.jobs.retrieve(job_id).result_files[1]
    with tarfile.open(fileobj=io.BytesIO(client.files.content(archive).content), mode="r:") as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def adapter_hash(client: OpenAI, job_id: str) -> str:
    return hashlib.sha256(adapter_files(client, job_id)["adapter_model.safetensors"]).hexdigest()
