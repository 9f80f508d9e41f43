"""Uploads in parts: the announced file, and the parts received so far."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, Double, ForeignKey, Integer, String, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now

PENDING, COMPLETED, CANCELLED, EXPIRED = "pending", "completed", "cancelled", "expired"


class Upload(Base):
    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    key_id: Mapped[str | None] = mapped_column(String(64))
    """Id of the API key that began the upload; None for uploads of older releases."""
    filename: Mapped[str] = mapped_column(String(512))
    purpose: Mapped[str] = mapped_column(String(32))
    mime_type: Mapped[str] = mapped_column(String(128))
    bytes: Mapped[int] = mapped_column(BigInteger)
    """Total size that the parts must have."""
    file_expires_after_s: Mapped[int | None] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(String(16), index=True)
    """pending, completed, cancelled or expired."""
    file_id: Mapped[str | None] = mapped_column(String(64))
    """The file that the completed upload became."""
    part_ids: Mapped[list[str] | None]
    """The parts that the upload was completed with, in order. A retry of the completion names the same parts."""
    swept: Mapped[bool] = mapped_column(default=False)
    """Whether the parts of the ended upload were deleted from storage."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    expires_at: Mapped[float] = mapped_column(Double)


class UploadPart(Base):
    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(UnixTime)

    @property
    def storage_key(self) -> str:
        return f"uploads/{self.upload_id}/{self.id}"


def lock(session: Session, project_id: str, upload_id: str, *, expire: bool = True) -> Upload | None:
    """Return the upload, locked until this transaction ends. A pending upload whose time is over becomes expired.

    `expire=False` leaves it pending, for a completion that began in time.
    """
    query = select(Upload).where(Upload.id == upload_id, Upload.project_id == project_id)
    upload = session.scalars(query.with_for_update().execution_options(populate_existing=True)).one_or_none()
    if expire and upload is not None and upload.status == PENDING and is_expired(session, upload):
        upload.status = EXPIRED
        session.flush()
    return upload


def is_expired(session: Session, upload: Upload) -> bool:
    return bool(session.scalar(select(db_now() >= upload.expires_at)))


def parts_of(session: Session, upload_id: str) -> Sequence[UploadPart]:
    return session.scalars(select(UploadPart).where(UploadPart.upload_id == upload_id)).all()


def received(session: Session, upload_id: str) -> tuple[int, int]:
    """Return the number of received parts and their total bytes."""
    query = select(func.count(), func.coalesce(func.sum(UploadPart.bytes), 0))
    count, total = session.execute(query.where(UploadPart.upload_id == upload_id)).one()
    return int(count), int(total)


def stored_bytes(session: Session, project_id: str) -> int:
    """Return the bytes of the parts of the project's pending uploads."""
    query = select(func.coalesce(func.sum(UploadPart.bytes), 0)).join(Upload, Upload.id == UploadPart.upload_id)
    return int(session.scalar(query.where(Upload.project_id == project_id, Upload.status == PENDING)) or 0)


def open_count(session: Session, project_id: str) -> int:
    """Return the number of the project's uploads that are pending or cancelled and have not expired."""
    of_project = select(func.count()).where(Upload.project_id == project_id, Upload.expires_at > db_now())
    return session.scalar(of_project.where(Upload.status.in_((PENDING, CANCELLED)))) or 0


def expire(session: Session, limit: int = 1000) -> None:
    """Mark pending uploads whose time is over as expired."""
    over = select(Upload.id).where(Upload.status == PENDING, Upload.expires_at <= db_now()).limit(limit)
    found = Upload.id.in_(over.with_for_update(skip_locked=True))
    session.execute(update(Upload).where(found).values(status=EXPIRED))


def ended_with_parts(session: Session, grace_s: float, limit: int = 20) -> Sequence[str]:
    """Return the ids of ended uploads whose parts are still stored, chosen at random.

    Only uploads whose time ran out at least `grace_s` seconds ago are included: until then, a part or another
    completion may be in flight.
    """
    query = select(Upload.id).where(
        Upload.status != PENDING, Upload.swept.is_(False), Upload.expires_at <= db_now() - grace_s
    )
    return session.scalars(query.order_by(func.random()).limit(limit)).all()


def delete_parts(session: Session, upload_id: str) -> None:
    session.execute(delete(UploadPart).where(UploadPart.upload_id == upload_id))
    session.get_one(Upload, upload_id).swept = True


def delete_old(session: Session, keep_s: float, limit: int = 1000) -> None:
    """Delete uploads that expired more than `keep_s` seconds ago and have no parts."""
    old = select(Upload.id).where(Upload.swept, Upload.expires_at <= db_now() - keep_s).limit(limit)
    session.execute(delete(Upload).where(Upload.id.in_(old)))
