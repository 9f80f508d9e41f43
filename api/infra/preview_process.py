"""The processes that work for a client while it waits: they look at rows for a preview or an estimate, or grade.

Templates are programs that strangers wrote, rows and graders may be anything: none is ever run in the API's process.
The children are `worker.preview` and `worker.grade`, run by their names; they have limits of their own, and nothing of
our environment but what they need to start. Few of them run at a time, in turns by project, and who waits for a turn
holds no thread. The newest answers about rows are kept: the same question costs nothing twice.
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
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import anyio
import structlog

from api.errors import Unavailable
from api.infra.fair_limiter import FairLimiter
from api.settings import Settings

log = structlog.get_logger(__name__)

PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
"""All that the child may know of its surroundings. Passwords and credentials stay on this side."""
START_S = 10.0
"""What a busy machine may take to start it."""
KEPT_ANSWERS = 256
KEPT_BYTES = 1 << 21
"""Of an answer that is kept."""

Report = dict[str, Any]
T = TypeVar("T")


class TooBusy(Unavailable):
    code = "previews_busy"

    def __init__(self) -> None:
        super().__init__(
            "Too many previews, estimates and gradings are being made: try again in a few seconds",
            headers={"retry-after": "5"},
        )


class PreviewFailed(Unavailable):
    code = "preview_failed"

    def __init__(self) -> None:
        super().__init__("This took longer than it may. Shorten the rows, or create the job: it takes its time")


class PreviewChild:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        processes = settings.preview_processes
        self._turns = FairLimiter(
            "previews, estimates and gradings",
            at_once=processes,
            each=max(1, processes - 1),  # one is always free for another project
            waiting=settings.preview_waiting,
        )
        self._threads = anyio.CapacityLimiter(processes)
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, str] = OrderedDict()

    async def in_turn(self, project_id: str, work: Callable[[], T]) -> T:
        """What the work, which asks a child, returns: in a thread that nothing else uses, when its turn has come.

        Raises Crowded, TooBusy, and what the work raises.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._turns.turn(project_id, wait_s=self._settings.preview_seconds))
            except TimeoutError:
                raise TooBusy from None
            return await anyio.to_thread.run_sync(work, limiter=self._threads)

    def ask(self, key: str, request: dict[str, Any], fill: Callable[[Path], None]) -> Report:
        """The child's report. `key`: of all that decides it; `fill` puts the files that it reads into its folder.

        Raises TooBusy, PreviewFailed.
        """
        with self._lock:
            known = self._answers.get(key)
            if known is not None:
                self._answers.move_to_end(key)
        if known is None:
            known = self.run("worker.preview", "preview.json", request, fill)
            if len(known) <= KEPT_BYTES:
                with self._lock:
                    self._answers[key] = known
                    while len(self._answers) > KEPT_ANSWERS:
                        self._answers.popitem(last=False)
        report: Report = json.loads(known)
        return report

    def run(self, module: str, name: str, request: dict[str, Any], fill: Callable[[Path], None] | None = None) -> str:
        """The report of the child, which reads its request, and the limits that are added to it, from a file of that
        name. Raises PreviewFailed."""
        settings = self._settings
        settings.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=settings.work, prefix="preview-") as temporary:
            folder = Path(temporary)
            if fill is not None:
                fill(folder)
            limits = {"memory_bytes": settings.preview_memory_bytes, "cpu_seconds": int(settings.preview_seconds)}
            (folder / name).write_text(json.dumps(request | limits))
            return _answer(module, folder, 2 * settings.preview_seconds + START_S)


def _answer(module: str, folder: Path, timeout_s: float) -> str:
    with (folder / "log.txt").open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
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
        log.error(
            "preview_died",
            child=module,
            code=code,
            log=(folder / "log.txt").read_bytes()[-4096:].decode(errors="replace"),
        )
        raise PreviewFailed
    return report.read_text()


def child_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return kept | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
