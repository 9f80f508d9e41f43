"""`kill -9` of an evaluation worker: each item is graded once, by the worker or by its successor."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.testclient import TestClient

from api.context import Context
from tests.api.eval_worker.test_worker import SCRIPT, a_run, an_eval, items_of, row

SETTINGS = "embedded"

ITEMS = 40
QUICK = {"ATTUNE_LEASE_S": "2", "ATTUNE_HEARTBEAT_S": "1", "ATTUNE_POLL_S": "0.2"}


@contextmanager
def a_worker(served: Context) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, **served.settings.environment(), **QUICK}
    process = subprocess.Popen([sys.executable, "-m", "api.eval_worker"], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(client: TestClient, run: str, count: int) -> None:
    for _ in range(3000):
        counts = client.get(run).json()["result_counts"]
        if counts["passed"] + counts["failed"] + counts["errored"] >= count:
            return
        time.sleep(0.02)  # the worker grades an item in milliseconds
    raise AssertionError(counts)


def test_a_run_survives_kill_9_of_its_worker_with_each_item_once(client: TestClient, served: Context) -> None:
    run = a_run(client, an_eval(client, SCRIPT), *(row("x", "abcd") for _ in range(ITEMS)))
    with a_worker(served):
        wait_for(client, run, 5)
    assert client.get(run).json()["status"] == "in_progress"
    with a_worker(served):
        wait_for(client, run, ITEMS)
    ended = client.get(run).json()
    assert ended["status"] == "completed"
    assert ended["result_counts"] == {"total": ITEMS, "passed": ITEMS, "failed": 0, "errored": 0}
    items = items_of(client, run, "?limit=100")
    assert [item["datasource_item_id"] for item in items] == list(range(ITEMS))
