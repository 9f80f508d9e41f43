"""Links that sign a browser in once. A row holds only the SHA-256 of the link's token, like that of a key."""

import secrets

from sqlalchemy import Connection, ForeignKey, String, delete, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records import keys
from api.records.base import Base, UnixTime, current_time, db_now
from api.records.keys import Key


class SignInLink(Base):
    __tablename__ = "sign_in_links"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("keys.id"), index=True)
    """The key that the browser's session will stand in for."""
    expires_at: Mapped[float] = mapped_column(UnixTime, index=True)


def create(session: Session, key_id: str, expires_in_s: float) -> tuple[str, float]:
    """Replace a key's link, and delete expired links. Return the new one's token, which cannot be recovered, and the
    time at which it expires."""
    session.execute(delete(SignInLink).where(or_(SignInLink.key_id == key_id, SignInLink.expires_at <= db_now())))
    token = secrets.token_urlsafe(32)
    expires_at = current_time(session) + expires_in_s
    session.add(SignInLink(sha256=keys.hash_of(token), key_id=key_id, expires_at=expires_at))
    return token, expires_at


def spend(session: Session, token: str) -> str | None:
    """Delete a link. Return the id of its key; None if the link was spent before, or if it or the key is no longer
    valid."""
    spent = delete(SignInLink).where(SignInLink.sha256 == keys.hash_of(token), SignInLink.expires_at > db_now())
    key_id = session.scalar(spent.returning(SignInLink.key_id))
    return session.scalar(select(Key.id).where(Key.id == key_id, *keys.LIVE))


def find(connection: Connection | Session, token: str) -> str | None:
    """Return the id of a link's key, and leave the link unspent; None if `spend` would return None."""
    link = select(SignInLink.key_id).where(SignInLink.sha256 == keys.hash_of(token), SignInLink.expires_at > db_now())
    return connection.scalar(select(Key.id).where(Key.id == link.scalar_subquery(), *keys.LIVE))
