"""The process that looks at rows for a preview or an estimate, while a client waits for the answer.

Templates are programs that strangers wrote, and rows may be anything: neither is ever rendered in the API's process.
The child is `worker.preview`, run by its name; it has limits of its own, and nothing of our environment but what it
needs to start. Few of them run at a time, and the newest answers are kept: the same question costs nothing twice.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from api.errors import Unavailable
from api.settings import Settings

log = structlog.get_logger(__name__)

PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
"""All that the child may know of its surroundings. Passwords and credentials stay on this side."""
KEPT_ANSWERS = 256
KEPT_BYTES = 1 << 21
"""Of an answer that is kept."""

Report = dict[str, Any]


class TooBusy(Unavailable):
    code = "previews_busy"

    def __init__(self) -> None:
        super().__init__("Too many previews and estimates are being made: try again in a few seconds")


class LookFailed(Unavailable):
    code = "preview_failed"

    def __init__(self) -> None:
        super().__init__("The rows could not be looked at in time. Shorten them, or create the job: it takes its time")


class PreviewChild:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running = threading.BoundedSemaphore(settings.preview_processes)
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, str] = OrderedDict()

    def ask(self, key: str, request: dict[str, Any], fill: Callable[[Path], None]) -> Report:
        """The child's report. `key`: of all that decides it; `fill` puts the files that it reads into its folder.

        Raises TooBusy, LookFailed.
        """
        with self._lock:
            known = self._answers.get(key)
            if known is not None:
                self._answers.move_to_end(key)
        if known is None:
            known = self._run(request, fill)
            if len(known) <= KEPT_BYTES:
                with self._lock:
                    self._answers[key] = known
                    while len(self._answers) > KEPT_ANSWERS:
                        self._answers.popitem(last=False)
        report: Report = json.loads(known)
        return report

    def _run(self, request: dict[str, Any], fill: Callable[[Path], None]) -> str:
        settings = self._settings
        if not self._running.acquire(timeout=settings.preview_seconds):
            raise TooBusy
        try:
            settings.work.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=settings.work, prefix="preview-") as name:
                folder = Path(name)
                fill(folder)
                limits = {"memory_bytes": settings.preview_memory_bytes, "cpu_seconds": int(settings.preview_seconds)}
                (folder / "preview.json").write_text(json.dumps(request | limits))
                return _answer(folder, 2 * settings.preview_seconds)
        finally:
            self._running.release()


def _answer(folder: Path, timeout_s: float) -> str:
    with (folder / "log.txt").open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "worker.preview", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=child_environment(),
            start_new_session=True,
        )
    try:
        code = child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    report = folder / "report.json"
    if code != 0 or not report.exists():
        log.error("preview_died", code=code, log=(folder / "log.txt").read_bytes()[-4096:].decode(errors="replace"))
        raise LookFailed
    return report.read_text()


def child_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return kept | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
