"""A worker's process with a real broker, into which anybody pushed anything."""

import base64
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from api.infra.doorbell import Doorbell, queue_name
from api.settings import Settings
from api.spec.lifecycle import Stage
from tests.end_to_end.jobs import wait_until
from tests.services.process import Server

QUEUE = queue_name(Stage.PREPARE)


def message(headers: object, content: bytes = b"[[], {}, {}]", **changes: object) -> dict[str, object]:
    """As kombu writes it, but for what is changed."""
    info = {"exchange": "", "routing_key": QUEUE}
    properties = {"delivery_tag": "tag", "delivery_info": info, "body_encoding": "base64"}
    shape = {
        "body": base64.b64encode(content).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
    }
    return shape | {"headers": headers, "properties": properties} | changes


BAD = [
    b"not json",
    b"\xff\xfe",
    b"",
    *(text.encode() for text in ("[]", "1", "null", '"x"', "{}", '{"properties": {}}', '{"properties": null}')),
    b"[" * 100_000,
    *(
        json.dumps(each).encode()
        for each in (
            message({"task": QUEUE}, body="no base64 %%%"),
            message({"task": QUEUE}, body=[1]),
            message({"task": QUEUE, "id": "x"}, b"not json"),
            message({"task": QUEUE, "id": "x"}, b"[]"),
            message({"task": QUEUE, "id": ["x"], "eta": "never"}),
            message({"task": "unknown", "id": "x"}),
            message({"task": ["unhashable"], "id": "x"}),
            message(["no", "headers"]),
            message(None, b"7"),
            message({"task": QUEUE, "id": "x"}, pickle.dumps(1), **{"content-type": "application/x-python-serialize"}),
            message({"task": QUEUE, "id": "x"}, properties={"delivery_tag": ["unhashable"]}),
            message({"task": QUEUE, "id": "x"}, properties={"delivery_tag": "t", "body_encoding": "rot13"}),
        )
    ),
]


class Worker(Server):
    name = "worker"
    stop_timeout_s = 30.0

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder)
        self.settings = settings

    def start(self) -> None:
        command = [sys.executable, "-m", "worker", Stage.PREPARE]
        self.spawn(command, env=self.settings.environment(), ready=lambda: "ready." in self.said())

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@pytest.fixture
def worker(tmp_path: Path, sqlite_url: str, valkey_url: str) -> Iterator[Worker]:
    settings = Settings(data_dir=tmp_path / "data", database_url=sqlite_url, broker_url=valkey_url)
    worker = Worker(tmp_path, settings)
    worker.start()
    yield worker
    worker.stop()


def test_messages_that_nobody_can_read_do_not_end_a_worker(worker: Worker, valkey_url: str) -> None:
    doorbell = Doorbell(worker.settings.broker_url)
    with redis.Redis.from_url(valkey_url) as client:
        for number, bad in enumerate(BAD):
            client.lpush(QUEUE, bad)
            if number % 5 == 0:
                doorbell.ring(Stage.PREPARE, f"ring-{number}")
        doorbell.ring(Stage.PREPARE, "after-bad-messages")
        wait_until(lambda: "after-bad-messages" in worker.said(), 30)
        wait_until(lambda: client.llen(QUEUE) == 0, 30)
        client.set(QUEUE, "no list at all")
        wait_until(lambda: "celery_ended" in worker.said(), 30)
        client.delete(QUEUE)
        doorbell.ring(Stage.PREPARE, "after-another-type")
        wait_until(lambda: "after-another-type" in worker.said(), 30)
    assert worker.process is not None
    assert worker.process.poll() is None
    rings = [f"ring-{number}" for number in range(0, len(BAD), 5)]
    assert [ring for ring in rings if ring not in worker.said()] == [], "no ring was lost to them"
