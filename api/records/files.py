"""Files: what users upload, and the result files of jobs."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, ForeignKey, Integer, Select, String, delete, func, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now
from api.records.jobs import Job
from api.records.pages import Page, paginate
from api.spec.lifecycle import FINAL


class File(Base):
    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    filename: Mapped[str] = mapped_column(String(512))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    storage_key: Mapped[str | None] = mapped_column(String(256))
    """None for a model's archive, which is put together from its artifacts while it is read."""
    model_id: Mapped[str | None] = mapped_column(String(256), index=True)
    """The model whose archive this is."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    expires_at: Mapped[float | None] = mapped_column(UnixTime, index=True)
    """From then on nobody sees it, and it is removed as soon as no unfinished job needs it."""
    scan_status: Mapped[str | None] = mapped_column(String(16), index=True)
    """pending, done or failed; None for what is not scanned, such as results."""
    scan_fence: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """How often a worker began to scan it; whoever holds an older number holds it no more."""
    scan_excused: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """How many of these beginnings came to nothing by no fault of the file: they do not count against it."""
    scan_until: Mapped[float | None] = mapped_column(UnixTime)
    """The lease of the worker that scans it."""
    scan: Mapped[dict[str, Any] | None]
    """What the scan found: format, rows, container, findings, finding_counts, error."""


def get(session: Session, project_id: str, file_id: str) -> File | None:
    return session.scalars(_one(project_id, file_id)).one_or_none()


def get_for_job(session: Session, project_id: str, file_id: str) -> File | None:
    """The same for a job that was accepted while the file had not expired."""
    return session.scalars(select(File).where(File.id == file_id, File.project_id == project_id)).one_or_none()


def get_to_use(session: Session, project_id: str, file_id: str) -> File | None:
    """The file, which nobody can remove until this transaction ends."""
    return session.scalars(_one(project_id, file_id).with_for_update(read=True)).one_or_none()


def get_to_remove(session: Session, project_id: str, file_id: str) -> File | None:
    """The file, which nobody can begin to use until this transaction ends."""
    return session.scalars(_one(project_id, file_id).with_for_update()).one_or_none()


def _one(project_id: str, file_id: str) -> Select[File]:
    return select(File).where(File.id == file_id, File.project_id == project_id, _is_live())


def _is_live() -> ColumnElement[bool]:
    return or_(File.expires_at.is_(None), File.expires_at > db_now())


def page(
    session: Session, project_id: str, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
) -> Page[File]:
    query = select(File).where(File.project_id == project_id, _is_live())
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    return paginate(
        session,
        query,
        order=(File.created_at, File.id),
        id_column=File.id,
        after=after,
        limit=limit,
        newest_first=newest_first,
    )


def held(session: Session, project_id: str) -> tuple[int, int]:
    """Return how many files the project has, and their bytes; without archives of models, made while they are read."""
    size = func.coalesce(func.sum(File.bytes), 0)
    query = select(func.count(), size).where(File.project_id == project_id, File.storage_key.is_not(None))
    count, total = session.execute(query).one()
    return int(count), int(total)


def remove(session: Session, file: File) -> None:
    session.execute(delete(File).where(File.id == file.id))


def archives_of(session: Session, model_id: str) -> Sequence[File]:
    return session.scalars(select(File).where(File.model_id == model_id)).all()


def expired(session: Session, limit: int = 50) -> Sequence[File]:
    """Files whose time is over, which nobody can begin to use until this transaction ends.

    Those that unfinished jobs need are left out, lest they keep the others from their turn; but whether one has just
    come to be needed can only be asked once they are locked.
    """
    named = or_(Job.training_file == File.id, Job.validation_file == File.id)
    needed = select(Job.id).where(named, Job.status.not_in(FINAL)).exists()
    query = select(File).where(File.expires_at <= db_now(), ~needed).order_by(File.expires_at).limit(limit)
    return session.scalars(query.with_for_update(skip_locked=True)).all()
