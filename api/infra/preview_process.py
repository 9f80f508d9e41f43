"""Child processes that serve a request while its client waits: previews, estimates and gradings.

Chat templates are untrusted programs, and rows and graders are untrusted input: none is processed in the API's process.
The child processes `worker.preview` and `worker.grade` have limits and a minimal environment of their own. Only a few
run at the same time. Projects take turns, and a request that waits for its turn holds no thread. The newest reports
about rows are cached.
"""

import asyncio
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import anyio
import structlog

from api.errors import InsufficientStorage, Unavailable
from api.infra.child_environment import child_environment
from api.infra.child_process import ForkServer, fork_server, start_fresh
from api.infra.fair_limiter import FairLimiter, TurnTimeout
from api.infra.leftover_previews import PREFIX
from api.infra.storage import NO_ROOM
from api.settings import Settings
from api.spec.preview_report import PreviewReport

log = structlog.get_logger(__name__)

START_S = 10.0
"""Seconds that a busy machine may take to start a child process."""
CACHED_REPORTS = 256
MAX_CACHED_BYTES = 1 << 21
"""Size limit of a cached report, in characters."""

T = TypeVar("T")


class TooBusy(Unavailable):
    code = "previews_busy"

    def __init__(self) -> None:
        super().__init__(
            "Too many previews, estimates and gradings are running. Retry in a few seconds.",
            headers={"retry-after": "5"},
        )


class PreviewFailed(Unavailable):
    code = "preview_failed"

    def __init__(self) -> None:
        super().__init__(
            "The time limit was exceeded: shorten the rows, or the script. The rows of a job have no such limit."
        )


class PreviewProcesses:
    def __init__(self, settings: Settings, programs: tuple[str, ...] = ("worker.preview", "worker.grade")) -> None:
        """`programs`: the programs that the fork server imports, so that they start quickly. It also loads the
        embedding model, so that children which need it do not."""
        folder = settings.embedding_folder
        # A fork server without torch would end when it imports the model's module.
        loads = folder is not None and find_spec("torch") is not None
        embeddings = (f"worker.shared.embedding_model:{folder}",) if loads else ()
        self._settings, self._programs = settings, (*programs, *embeddings)
        processes = settings.preview_processes
        self._turns = FairLimiter(
            "previews, estimates and gradings",
            total=processes,
            per_project=max(1, processes - 1),  # leaves one for another project
            max_waiting=settings.preview_waiting,
            wait_s=settings.preview_seconds,
        )
        self._threads = anyio.CapacityLimiter(processes)
        """The threads that wait for these processes."""
        self._lock = threading.Lock()
        self._reports: OrderedDict[str, str] = OrderedDict()

    async def run_in_turn(self, project_id: str, work: Callable[[], T]) -> T:
        """Wait for the project's turn, run `work` in a thread reserved for these processes, and return its result.

        Raises ConcurrencyLimitExceeded or TooBusy if the turn does not come in time, and the exceptions of `work`.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._turns.turn(project_id))
            except TurnTimeout:
                raise TooBusy from None
            return await anyio.to_thread.run_sync(work, limiter=self._threads)

    @property
    def longest_s(self) -> float:
        """The time after which a child process is killed."""
        return 2 * self._settings.preview_seconds + START_S

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread reserved for these processes, and return its result.

        If the caller's task is cancelled, `work` continues in its thread and keeps its place until it ends. So no more
        than `preview_processes` of them run, even if many callers are cancelled.
        """
        place = object()
        await self._threads.acquire_on_behalf_of(place)
        running = asyncio.create_task(anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1)))
        running.add_done_callback(lambda _: self._threads.release_on_behalf_of(place))
        return await asyncio.shield(running)

    def preview(self, key: str, request: Mapping[str, object], fill: Callable[[Path], None]) -> PreviewReport:
        """Return the report of `worker.preview`, from the cache if it is there.

        `key` is a hash of everything that determines the report. `fill` writes the files that the child process reads
        into its folder. Raises PreviewFailed if the child process exceeds its limits or dies.
        """
        with self._lock:
            report = self._reports.get(key)
            if report is not None:
                self._reports.move_to_end(key)
        if report is None:
            report = self.run("worker.preview", "preview.json", request, fill)
            if len(report) <= MAX_CACHED_BYTES:
                with self._lock:
                    self._reports[key] = report
                    while len(self._reports) > CACHED_REPORTS:
                        self._reports.popitem(last=False)
        parsed: PreviewReport = json.loads(report)
        return parsed

    def run(
        self, module: str, name: str, request: Mapping[str, object], fill: Callable[[Path], None] | None = None
    ) -> str:
        """Run a child process, and return its report. Raises PreviewFailed if it exceeds its limits or dies,
        and InsufficientStorage if the disk of the work folder is full.

        `name` is the file from which the child process reads the request and its limits.
        """
        try:
            return self._run(module, name, request, fill)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            log.error("work_folder_full", folder=str(self._settings.work))
            raise InsufficientStorage("The disk of this server's work folder is full") from None

    def _run(self, module: str, name: str, request: Mapping[str, object], fill: Callable[[Path], None] | None) -> str:
        settings = self._settings
        settings.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=settings.work, prefix=PREFIX) as temporary:
            folder = Path(temporary)
            if fill is not None:
                fill(folder)
            limits = {"memory_bytes": settings.preview_memory_bytes, "cpu_seconds": int(settings.preview_seconds)}
            (folder / name).write_text(json.dumps({**request, **limits}))
            server = fork_server(*self._programs) if settings.fork_server else None
            return _report(server, module, folder, self.longest_s)


def _report(server: ForkServer | None, module: str, folder: Path, timeout_s: float) -> str:
    start = start_fresh if server is None else server.start
    with (folder / "log.txt").open("wb") as output:
        child = start(module, str(folder), environment=child_environment(), output=output)
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
