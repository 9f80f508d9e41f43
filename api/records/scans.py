"""Scans of uploaded files: which waits, who is at it, what was found. A small queue beside that of the jobs.

A claim raises the file's fence and takes a lease; what a worker writes after another claimed the file changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, CursorResult, and_, func, or_, select, update
from sqlalchemy.orm import Session

from api.records import turns
from api.records.base import db_now
from api.records.files import File

MAX_SCANS = 5
"""A file that was begun so often and never finished is scanned no more. Excused beginnings do not count."""
SCANNED_PURPOSE = "fine-tune"


@dataclass(frozen=True)
class ScanClaim:
    file_id: str
    storage_key: str
    sha256: str | None
    fence: int


def _waiting() -> ColumnElement[bool]:
    free = or_(File.scan_until.is_(None), File.scan_until < db_now())
    return and_(File.scan_status == "pending", File.storage_key.is_not(None), free)


_BEGUN = File.scan_fence - File.scan_excused


def claim(session: Session, lease_s: float, *, stalled: bool = False) -> ScanClaim | None:
    """The file that waits longest, of the project whose turn it is; or None.

    stalled: leases have run out of late because everything stopped, so that one that did is not held against its file.
    """
    project_id = _next_project(session)
    query = (
        select(File)
        .where(_waiting(), _BEGUN < MAX_SCANS, File.project_id == project_id)
        .order_by(File.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    file = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if file is None or file.storage_key is None:
        return None
    taken = ScanClaim(file.id, file.storage_key, file.sha256, file.scan_fence + 1)
    excused = file.scan_excused + int(stalled and file.scan_until is not None)
    lease = {"scan_fence": taken.fence, "scan_until": db_now() + lease_s, "scan_excused": excused}
    session.execute(update(File).where(File.id == file.id).values(**lease))
    turns.take(session, "scan", file.project_id)
    return taken


def _next_project(session: Session) -> str | None:
    waiting = select(File.project_id, func.min(File.created_at)).where(_waiting(), _BEGUN < MAX_SCANS)
    oldest = {project: float(at) for project, at in session.execute(waiting.group_by(File.project_id))}
    at_it = select(File.project_id, func.count()).where(File.scan_status == "pending", File.scan_until >= db_now())
    busy = {project: int(count) for project, count in session.execute(at_it.group_by(File.project_id))}
    return turns.following(session, "scan", oldest, busy)


def renew(session: Session, claim: ScanClaim, lease_s: float) -> bool:
    """Whether the claim still holds."""
    return _write(session, claim, scan_until=db_now() + lease_s)


def finish(session: Session, claim: ScanClaim, status: Literal["done", "failed"], found: dict[str, Any] | None) -> bool:
    """Write what was found. False if the claim is lost, or the file is gone."""
    return _write(session, claim, scan_status=status, scan=found, scan_until=None)


def requeue(session: Session, claim: ScanClaim, *, excused: bool) -> bool:
    """Let another try. excused: the file was not at fault, and the beginning does not count against it."""
    return _write(session, claim, scan_until=None, scan_excused=File.scan_excused + int(excused))


def has_waiting(session: Session) -> bool:
    return session.scalar(select(File.id).where(_waiting(), _BEGUN < MAX_SCANS).limit(1)) is not None


def begun_too_often(session: Session, limit: int = 20) -> Sequence[ScanClaim]:
    """Files over which worker after worker was lost, as claims that can be finished."""
    query = select(File).where(_waiting(), _BEGUN >= MAX_SCANS).limit(limit)
    return [ScanClaim(file.id, str(file.storage_key), file.sha256, file.scan_fence) for file in session.scalars(query)]


def _write(session: Session, claim: ScanClaim, **values: Any) -> bool:
    statement = update(File).where(
        File.id == claim.file_id, File.scan_fence == claim.fence, File.scan_status == "pending"
    )
    result = session.execute(statement.values(**values))
    assert isinstance(result, CursorResult), result
    return result.rowcount == 1
