"""Scans of uploaded files: a worker of the prepare stage checks them before any job names them."""

import json
import shutil
import signal
import threading
from pathlib import Path
from typing import Any, Literal, TypeAlias

import structlog

from api.infra.storage import ObjectCorrupt, ObjectMissing, ReadingStopped, StorageUnavailable
from api.records import scans
from api.records.scans import ScanClaim
from worker.shared.cgroup import out_of_memory_kills
from worker.supervisor.background import BackgroundThread
from worker.supervisor.child import Child
from worker.supervisor.faults import SIGNALS_FROM_OUTSIDE
from worker.supervisor.node import Node
from worker.supervisor.write_retry import write_with_retry

log = structlog.get_logger(__name__)

WAIT_S = 1.0
ROUNDS = 2
"""How many times a thread searches for waiting files. While one thread scans, the others return at once. If one of them
was woken for a file uploaded just after the scanning thread's last query, that thread finds the file in its second
round."""
CRASHED = "The process that reads the file ended unexpectedly. Look in the file for a row that is unlike the others."
HUNG = (
    "The process that reads the file made no progress and was stopped. Look in the file for a row that is unlike the "
    "others."
)
KILLED_FOR_MEMORY = (
    "The worker's memory was full, and its kernel ended the process that reads the file. Split the file into smaller "
    "ones, or ask the operator for a worker with more memory."
)
DAMAGED = "The stored file is missing or damaged. Upload it again."
LOST = "The file could not be scanned: each attempt was interrupted."

ScanReport: TypeAlias = dict[str, Any]
"""The child's report (worker.scan.Report)."""


class ChildKilled(Exception):
    """The scan's process was killed from outside, or because it hung."""

    def __init__(self, reason: str | None = None) -> None:
        """`reason`: a sentence for the file's report, if the file may be the cause."""
        super().__init__(reason)
        self.reason = reason


class ScanInterrupted(Exception):
    """Another worker has claimed the file, the file was deleted, or this worker is shutting down."""


class ScanBeat(BackgroundThread):
    """Renews a scan's lease until the scan ends. The scan's own thread may be busy for longer than the lease, while it
    fetches a large file."""

    def __init__(self, node: Node, claim: ScanClaim) -> None:
        super().__init__(f"heartbeat-{claim.file_id}")
        self._context, self._claim = node.context, claim
        self.lost = threading.Event()
        """Set when another worker has claimed the file, or the file was deleted."""

    def _run(self) -> None:
        settings = self._context.settings
        while not self._stop.wait(settings.heartbeat_s):
            try:
                with self._context.database.write() as session:
                    if not scans.renew(session, self._claim, settings.lease_s):
                        self.lost.set()
                        return
            except Exception as error:  # as in Heartbeat: a healthy scan must not lose its lease to any error
                log.warning("heartbeat_failed", file_id=self._claim.file_id, error=type(error).__name__)


def scan_waiting(node: Node) -> None:
    """Scan until no file waits, unless another thread of this worker scans.

    Only one thread scans, in addition to those that prepare jobs, so that no job waits behind files that no job has
    named yet.
    """
    for _ in range(ROUNDS):
        if not node.scanning.acquire(blocking=False):
            return
        try:
            while not node.stopping.is_set() and node.pause.may_work() and scan_next(node):
                pass
        finally:
            node.scanning.release()


def scan_next(node: Node) -> bool:
    """Scan the next file. Return False if no file waits."""
    with node.context.database.write() as session:
        claim = scans.claim(session, node.context.settings.lease_s, stalled=node.visibility.stalled)
    if claim is None:
        return False
    folder = node.folder / f"{claim.file_id}-{claim.fence}"
    try:
        folder.mkdir()
        with ScanBeat(node, claim) as beat:  # ended before a requeue, which ends the lease
            result = _scan(node, claim, folder, beat)
        outcome: Literal["done", "failed"] = "failed" if result["error"] else "done"
        write_with_retry(node, lambda session: scans.finish(session, claim, outcome, result))
    except (ScanInterrupted, ReadingStopped):
        _requeue(node, claim, excused=True)
    except (ObjectMissing, ObjectCorrupt, ChildKilled) as error:
        problem = node.find_problem() if isinstance(error, ObjectMissing) else None
        log.info("scan_dropped", file_id=claim.file_id, error=type(error).__name__)
        reason = error.reason if isinstance(error, ChildKilled) else DAMAGED
        _requeue(node, claim, excused=problem is not None, reason=None if problem else reason)
        if problem is not None:
            node.pause.begin(problem)
    except (StorageUnavailable, OSError) as error:
        log.warning("scan_failed", file_id=claim.file_id, error=type(error).__name__)
        _requeue(node, claim, excused=True)  # before find_problem, which may take longer than the lease
        node.pause.begin(node.find_problem() or f"A file could not be scanned: {type(error).__name__}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def fail_abandoned_scans(node: Node) -> None:
    """Fail the scans of files whose workers were lost too often."""
    with node.context.database.write() as session:
        for claim, reason in scans.exhausted(session):
            scans.finish(session, claim, "failed", {"error": reason or LOST})


def _scan(node: Node, claim: ScanClaim, folder: Path, beat: ScanBeat) -> ScanReport:
    settings = node.context.settings
    node.storage.read_file(claim.storage_key, folder / "input", sha256=claim.sha256)
    request = {"memory_bytes": settings.prepare_memory_bytes, "cpu_seconds": settings.scan_cpu_seconds}
    (folder / "scan.json").write_text(json.dumps(request))
    kills_before = out_of_memory_kills()
    code = _wait(node, beat, node.start_child("worker.scan", folder))
    path = folder / "report.json"
    if code == 0 and path.exists():
        report: ScanReport = json.loads(path.read_bytes())
        return report
    log.error("scan_died", file_id=claim.file_id, code=code)
    if -code in SIGNALS_FROM_OUTSIDE:
        killed = code == -signal.SIGKILL and out_of_memory_kills() > kills_before
        raise ChildKilled(KILLED_FOR_MEMORY if killed else None)
    return {"error": CRASHED}


def _wait(node: Node, beat: ScanBeat, child: Child) -> int:
    """Wait until the child has ended, and return its exit code. Raises ScanInterrupted; ChildKilled if it hung."""
    try:
        while True:
            if node.stopping.is_set() or beat.lost.is_set():
                raise ScanInterrupted
            try:
                if child.next_report(WAIT_S) is None:
                    return child.wait(timeout_s=30)
            except TimeoutError:
                if child.silent_s > node.context.settings.hung_s:
                    raise ChildKilled(HUNG) from None
    finally:
        child.kill()


def _requeue(node: Node, claim: ScanClaim, *, excused: bool, reason: str | None = None) -> None:
    write_with_retry(node, lambda session: scans.requeue(session, claim, excused=excused, reason=reason))
