"""The installation's keys for signatures of published manifests. The newest key signs; of older keys, only the public
half is kept."""

from collections.abc import Callable, Sequence
from typing import Protocol

from sqlalchemy import Integer, String, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now, insert


class NewKey(Protocol):
    """A pair of keys, each half in base64url."""

    @property
    def id(self) -> str: ...
    @property
    def public(self) -> str: ...
    @property
    def private(self) -> str: ...


class SigningKey(Base):
    __tablename__ = "signing_keys"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """1, 2, … in the order of creation. It is unique, so that two processes cannot both add the next signing key."""
    id: Mapped[str] = mapped_column(String(64), unique=True)
    public_key: Mapped[str] = mapped_column(String(64))
    """The public half, in base64url."""
    private_key: Mapped[str | None] = mapped_column(String(64))
    """The private half, in base64url. Like the secrets of webhooks, it is protected only by the access to the database.
    None for a retired key, whose private half is deleted."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    retired_at: Mapped[float | None] = mapped_column(UnixTime)


def listed(session: Session) -> Sequence[SigningKey]:
    """Return all keys, the current one first."""
    return session.scalars(select(SigningKey).order_by(SigningKey.number.desc())).all()


def newest(session: Session) -> SigningKey | None:
    return session.scalars(select(SigningKey).order_by(SigningKey.number.desc()).limit(1)).one_or_none()


def current(session: Session, new: Callable[[], NewKey]) -> SigningKey:
    """Return the key that signs. The first call adds a new one."""
    return newest(session) or add(session, 1, new())


def add(session: Session, number: int, key: NewKey) -> SigningKey:
    """Add the key with this number and retire the keys before it. If another process has added that number, change
    nothing. Return the newest key."""
    values: dict[str, object] = {"number": number, "id": key.id, "public_key": key.public, "private_key": key.private}
    values["created_at"] = db_now()
    added = session.execute(
        insert(session, SigningKey).values(values).on_conflict_do_nothing().returning(SigningKey.number)
    )
    if added.first() is not None:
        before = (SigningKey.number < number, SigningKey.retired_at.is_(None))
        session.execute(update(SigningKey).where(*before).values(private_key=None, retired_at=db_now()))
    found = newest(session)
    assert found is not None
    return found
