"""Hostile scripts in the real grading child of the evaluation worker: its limits hold, and later items are graded."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
from fastapi.testclient import TestClient

from api.context import Context
from api.infra.preview_process import PreviewProcesses
from tests.api.eval_worker.test_worker import SCRIPT, a_run, an_eval, items_of, row, work

SETTINGS = "embedded"

MEMORY_BYTES = 256 << 20
HOSTILE = """
def grade(sample, item):
    attack = item["attack"]
    if attack == "loop":
        while True: pass
    if attack == "text":
        text = "x"
        while True: text += text
    if attack == "list":
        return len([0] * 10**9)
    if attack == "recursion":
        return grade(sample, item)
    if attack == "flood":
        while True: print("x" * 1000)
    return 1
"""
ERRORS = {
    "loop": "TimeoutError",
    "text": "MemoryError",
    "list": "MemoryError",
    "recursion": "RecursionError",
    "flood": "TimeoutError",
}


def test_hostile_scripts_are_errors_of_their_items_within_the_memory_limit(client: TestClient, served: Context) -> None:
    limited = served.settings.model_copy(update={"preview_memory_bytes": MEMORY_BYTES})
    rows = [row("", "x", attack=attack) for attack in (*ERRORS, "none")]
    run = a_run(client, an_eval(client, SCRIPT | {"source": HOSTILE}), *rows)
    with peaks_of_graders() as peaks:
        work(replace(served, previews=PreviewProcesses(limited)))
    *hostile, harmless = items_of(client, run)
    for item, error in zip(hostile, ERRORS.values(), strict=True):
        assert item["status"] == "error"
        assert error in item["results"][0]["error"]["message"]
    assert harmless["status"] == "pass"
    assert client.get(run).json()["result_counts"] == {"total": 6, "passed": 1, "failed": 0, "errored": 5}
    assert len(peaks) > len(ERRORS), "children, and interpreters of theirs"
    assert max(peaks.values()) < MEMORY_BYTES


@contextmanager
def peaks_of_graders() -> Iterator[dict[int, int]]:
    """Measure the peak of resident memory, in bytes, of each grading child and interpreter, by process id."""
    peaks: dict[int, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.03):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error, OSError):  # a process that has just ended, or another test's zombie
                    if "worker.evaluate" in child.cmdline():
                        peaks.update({each.pid: peak_of(each) for each in (child, *child.children())})

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


def peak_of(process: psutil.Process) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    return int(found[1]) << 10 if found else 0
