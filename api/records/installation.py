"""Data of the whole installation: the id of its object storage."""

from sqlalchemy import Integer, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base

MARKER = "installation"
"""Key of the marker, the object in the storage that holds the storage's id."""


class Installation(Base):
    """The only row of the table."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, default=1)
    storage_id: Mapped[str] = mapped_column(String(64))


def storage_id(session: Session) -> str | None:
    """Return the id of the object storage that belongs to this database; None before `attune migrate` or `attune up`
    has chosen it."""
    return session.scalar(select(Installation.storage_id))


def set_storage_id(session: Session, chosen: str) -> None:
    session.merge(Installation(id=1, storage_id=chosen))
