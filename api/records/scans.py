"""Scans of uploaded files: a queue of files, separate from that of the jobs.

A claim takes a lease of the file and increases its fence (`File.scan_fence`). Once another worker has claimed the file,
writes of the first worker are ignored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from api.records import turns
from api.records.base import changed_rows, db_now
from api.records.files import File
from api.spec.fields import JsonObject

MAX_SCANS = 5
"""After this many scans that did not finish, a file is not scanned again. Excused scans (`File.scan_excused`) do not
count."""
SCANNED_PURPOSE = "fine-tune"


@dataclass(frozen=True)
class ScanClaim:
    file_id: str
    storage_key: str
    sha256: str | None
    fence: int


def is_waiting() -> ColumnElement[bool]:
    """Return the condition that a file waits for a scan."""
    free = or_(File.scan_until.is_(None), File.scan_until < db_now())
    return and_(File.scan_status == "pending", File.storage_key.is_not(None), free)


_BEGUN = File.scan_fence - File.scan_excused


def claim(session: Session, lease_s: float, *, stalled: bool = False) -> ScanClaim | None:
    """Claim the oldest waiting file of the project whose turn it is (api.records.turns). Return None if no file waits.

    `stalled`: the whole system was interrupted recently, so an expired lease does not count against its file.
    """
    project_id = _next_project(session)
    query = (
        select(File)
        .where(is_waiting(), _BEGUN < MAX_SCANS, File.project_id == project_id)
        .order_by(File.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    file = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if file is None or file.storage_key is None:
        return None
    scan = ScanClaim(file.id, file.storage_key, file.sha256, file.scan_fence + 1)
    excused = file.scan_excused + int(stalled and file.scan_until is not None)
    lease = {"scan_fence": scan.fence, "scan_until": db_now() + lease_s, "scan_excused": excused}
    session.execute(update(File).where(File.id == file.id).values(**lease))
    turns.record(session, "scan", file.project_id)
    return scan


def _next_project(session: Session) -> str | None:
    waiting = select(File.project_id, func.min(File.created_at)).where(is_waiting(), _BEGUN < MAX_SCANS)
    oldest = {project: float(at) for project, at in session.execute(waiting.group_by(File.project_id))}
    leased = select(File.project_id, func.count()).where(File.scan_status == "pending", File.scan_until >= db_now())
    busy = {project: int(count) for project, count in session.execute(leased.group_by(File.project_id))}
    return turns.next_project(session, "scan", oldest, busy)


def renew(session: Session, claim: ScanClaim, lease_s: float) -> bool:
    """Extend the claim's lease. Return False if the claim is lost."""
    return _write(session, claim, scan_until=db_now() + lease_s)


def finish(session: Session, claim: ScanClaim, status: Literal["done", "failed"], found: JsonObject | None) -> bool:
    """Store the scan's result. Return False if the claim is lost or the file was deleted."""
    return _write(session, claim, scan_status=status, scan=found, scan_until=None)


def requeue(session: Session, claim: ScanClaim, *, excused: bool, reason: str | None = None) -> bool:
    """Give up the claim, so that a worker scans the file again. An excused scan does not count towards MAX_SCANS.

    `reason`: a sentence for the file's report, if no later scan finishes.
    """
    found = {} if reason is None else {"scan": {"error": reason}}
    return _write(session, claim, scan_until=None, scan_excused=File.scan_excused + int(excused), **found)


def has_waiting(session: Session) -> bool:
    return session.scalar(select(File.id).where(is_waiting(), _BEGUN < MAX_SCANS).limit(1)) is not None


def exhausted(session: Session, limit: int = 20) -> Sequence[tuple[ScanClaim, str | None]]:
    """Return files that reached MAX_SCANS, each as a claim with which the caller can finish its scan, and with the last
    reason of a `requeue`."""
    query = select(File).where(is_waiting(), _BEGUN >= MAX_SCANS).limit(limit)
    return [
        (ScanClaim(file.id, str(file.storage_key), file.sha256, file.scan_fence), (file.scan or {}).get("error"))
        for file in session.scalars(query)
    ]


def _write(session: Session, claim: ScanClaim, **values: object) -> bool:
    statement = update(File).where(
        File.id == claim.file_id, File.scan_fence == claim.fence, File.scan_status == "pending"
    )
    return changed_rows(session.execute(statement.values(**values))) == 1
