"""Files: uploads of users, and result files of jobs."""

from collections.abc import Sequence

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ForeignKey,
    Integer,
    Select,
    String,
    and_,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, changed_rows, db_now
from api.records.batches import Batch
from api.records.eval_runs import EvalRun
from api.records.jobs import Job
from api.records.pages import Listing, Page, paginate
from api.spec.batch import BATCH_FINAL
from api.spec.evals.status import RunStatus
from api.spec.fields import JsonObject
from api.spec.lifecycle import UNFINISHED

RESULTS = "fine-tune-results"
"""Purpose of the result files of a job. They are kept as long as the job's model."""


class File(Base):
    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    key_id: Mapped[str | None] = mapped_column(String(64))
    """Id of the API key that created the file, or the job of a result file; None for files of older releases."""
    filename: Mapped[str] = mapped_column(String(512))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    storage_key: Mapped[str | None] = mapped_column(String(256))
    """Key of the file's object; None for a model's archive, which is generated from artifacts while it is read."""
    model_id: Mapped[str | None] = mapped_column(String(256), index=True)
    """The model whose archive the file is; None for other files."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    expires_at: Mapped[float | None] = mapped_column(UnixTime, index=True)
    """Time from which the file is invisible. The file is deleted once no unfinished job needs it."""
    scan_status: Mapped[str | None] = mapped_column(String(16), index=True)
    """pending, done or failed; None for files that are not scanned, such as results."""
    scan_fence: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """Number of scans that were begun. Writes of a worker with an older number are ignored."""
    scan_excused: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """Number of begun scans that failed for reasons other than the file. They do not count towards the limit
    (api.records.scans.MAX_SCANS)."""
    scan_until: Mapped[float | None] = mapped_column(UnixTime)
    """End of the lease of the worker that scans the file."""
    scan: Mapped[JsonObject | None]
    """The scan's report: format, rows, container, findings, finding_counts, error. While the file waits for another
    scan: the `error` that it gets if no scan finishes."""

    @property
    def scan_report(self) -> JsonObject:
        """The report of the finished scan; empty while the file waits."""
        return {} if self.scan is None or self.scan_status == "pending" else self.scan


LISTING = Listing(File.project_id, File.id, (File.created_at, File.id))


def get(session: Session, project_id: str, file_id: str) -> File | None:
    return session.scalars(_one(project_id, file_id)).one_or_none()


def get_for_job(session: Session, project_id: str, file_id: str) -> File | None:
    """Return the file even if it has expired, for a job, batch or run that was accepted before the expiry."""
    return session.scalars(select(File).where(File.id == file_id, File.project_id == project_id)).one_or_none()


def get_to_use(session: Session, project_id: str, file_id: str) -> File | None:
    """Return the file, locked against removal until this transaction ends."""
    return session.scalars(_one(project_id, file_id).with_for_update(read=True)).one_or_none()


def get_to_remove(session: Session, project_id: str, file_id: str) -> File | None:
    """Return the file, locked against new uses until this transaction ends."""
    return session.scalars(_one(project_id, file_id).with_for_update()).one_or_none()


def _one(project_id: str, file_id: str) -> Select[File]:
    return select(File).where(File.id == file_id, File.project_id == project_id, _is_live())


def _is_live() -> ColumnElement[bool]:
    return or_(File.expires_at.is_(None), File.expires_at > db_now())


def page(
    session: Session,
    project_id: str,
    *,
    purpose: str | None,
    sha256: str | None,
    after: str | None,
    limit: int,
    newest_first: bool,
) -> Page[File]:
    query = select(File).where(File.project_id == project_id, _is_live())
    if sha256 is not None:
        query = query.where(File.sha256 == sha256)
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    return paginate(
        session,
        LISTING,
        project_id,
        query,
        after=after,
        limit=limit,
        newest_first=newest_first,
    )


def stored_totals(session: Session, project_id: str) -> tuple[int, int]:
    """Return the number and the total bytes of the project's stored files. Archives of models are not stored."""
    size = func.coalesce(func.sum(File.bytes), 0)
    query = select(func.count(), size).where(File.project_id == project_id, File.storage_key.is_not(None))
    count, total = session.execute(query).one()
    return int(count), int(total)


def remove(session: Session, file: File) -> None:
    LISTING.delete(session, File.id == file.id)


def archives_of(session: Session, model_id: str) -> Sequence[File]:
    return session.scalars(select(File).where(File.model_id == model_id)).all()


def expire_old(session: Session, keep_s: float) -> int:
    """Let users' files that are older than `keep_s` seconds expire now. Return their number."""
    old = and_(File.created_at < db_now() - keep_s, File.purpose != RESULTS, _is_live())
    return changed_rows(session.execute(update(File).where(old).values(expires_at=db_now())))


def expired(session: Session, limit: int = 50) -> Sequence[File]:
    """Return expired files, locked against new uses until this transaction ends.

    Files in use by unfinished jobs, batches and runs of evals are excluded, so that they do not fill the limit. A job
    may be created between the query and its locks: the caller has to check again.
    """
    named = or_(Job.training_file == File.id, Job.validation_file == File.id)
    needed = select(Job.id).where(named, Job.status.in_(UNFINISHED)).exists()
    read = select(Batch.id).where(Batch.input_file == File.id, Batch.status.not_in(BATCH_FINAL)).exists()
    graded = select(EvalRun.id).where(EvalRun.input_file == File.id, EvalRun.status == RunStatus.QUEUED).exists()
    query = (
        select(File).where(File.expires_at <= db_now(), ~needed, ~read, ~graded).order_by(File.expires_at).limit(limit)
    )
    return session.scalars(query.with_for_update(skip_locked=True)).all()
