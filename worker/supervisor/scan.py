"""Uploaded files, looked through by a prepare slot before any job names them: claim → fetch → run → write down."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.infra.storage import Corrupt, ObjectMissing, StorageUnavailable
from api.records import scans
from api.records.scans import ScanClaim
from worker.supervisor.child import Child
from worker.supervisor.node import Node
from worker.supervisor.write_retry import written

log = structlog.get_logger(__name__)

WAIT_S = 1.0
LOOKS = 2
"""Whoever came just after the last look found it under way, and went away."""
CRASHED = "The process that reads the file ended unexpectedly. Look in it for a row that is unlike the others."
LOST = "The file could not be scanned: it was begun again and again and never finished."


ENDED = (signal.SIGKILL, signal.SIGTERM)
"""Signals that come from outside, of an operator or the kernel: another try may get through."""


class Ended(Exception):
    """The scan's process was ended from outside, or because it hung."""


class NotOurs(Exception):
    """The claim is lost, or the worker was asked to stop."""


def scan_waiting(node: Node) -> None:
    """Scan until no file waits, unless another thread is at it: one at a time, beside the slots, so that no job waits
    for a file that nobody has named yet."""
    for _ in range(LOOKS):
        if not node.scanning.acquire(blocking=False):
            return
        try:
            while not node.stopping.is_set() and node.hold.open() and scan_next(node):
                pass
        finally:
            node.scanning.release()


def scan_next(node: Node) -> bool:
    """Scan the next file. False if none waits."""
    with node.context.database.write() as session:
        claim = scans.claim(session, node.context.settings.lease_s, stalled=node.watch.stalled)
    if claim is None:
        return False
    folder = node.folder / f"{claim.file_id}-{claim.fence}"
    try:
        folder.mkdir()
        found = _scan(node, claim, folder)
        written(node, lambda session: scans.finish(session, claim, "failed" if found["error"] else "done", found))
    except NotOurs:
        _put_back(node, claim, excused=True)
    except (ObjectMissing, Corrupt, Ended) as error:
        log.info("scan_dropped", file_id=claim.file_id, error=type(error).__name__)  # deleted meanwhile, or soon told
        _put_back(node, claim, excused=False)
    except (SQLAlchemyError, StorageUnavailable, OSError) as error:
        log.warning("scan_broke", file_id=claim.file_id, error=type(error).__name__)
        if not isinstance(error, SQLAlchemyError):
            node.hold.begin(node.trouble() or f"A file could not be scanned: {type(error).__name__}")
        _put_back(node, claim, excused=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def give_up(node: Node) -> None:
    """Write down that files over which workers were lost are scanned no more."""
    with node.context.database.write() as session:
        for claim in scans.begun_too_often(session):
            scans.finish(session, claim, "failed", {"error": LOST})


def _scan(node: Node, claim: ScanClaim, folder: Path) -> dict[str, Any]:
    settings = node.context.settings
    node.context.storage.read_file(claim.storage_key, folder / "input", sha256=claim.sha256)
    request = {"memory_bytes": settings.prepare_memory_bytes, "cpu_seconds": settings.scan_cpu_seconds}
    (folder / "scan.json").write_text(json.dumps(request))
    code = _wait(node, claim, Child("worker.scan", str(folder), log_file=folder / "log.txt"))
    report = folder / "report.json"
    if code == 0 and report.exists():
        found: dict[str, Any] = json.loads(report.read_bytes())
        return found
    log.error("scan_died", file_id=claim.file_id, code=code)
    if -code in ENDED:
        raise Ended
    return {"error": CRASHED}


def _wait(node: Node, claim: ScanClaim, child: Child) -> int:
    """Its exit code. Raises NotOurs."""
    settings = node.context.settings
    renewed_at = time.monotonic()
    try:
        while True:
            if node.stopping.is_set():
                raise NotOurs
            if time.monotonic() - renewed_at > settings.heartbeat_s:
                renewed_at = time.monotonic()
                with node.context.database.write() as session:
                    if not scans.renew(session, claim, settings.lease_s):
                        raise NotOurs
            try:
                if child.next_report(WAIT_S) is None:
                    return child.wait(timeout_s=30)
            except TimeoutError:
                if child.silent_s > settings.hung_s:
                    return child.kill()
    finally:
        child.kill()


def _put_back(node: Node, claim: ScanClaim, *, excused: bool) -> None:
    written(node, lambda session: scans.requeue(session, claim, excused=excused))
